//! One datagram freezes: among its descriptors is a TCP socket that lingers, so whoever drops the last reference to it waits
//! until its peer has read what was sent. On this kernel, and on an older host, where the kernel does not refuse it.

use portcullis_tests::{
    Agent, Client, Door, HOSTS, Host, Process, SLEEP, Service, failed, has_pass_rights, holds,
    launch, launched, until,
};
use portcullis_wire::{Body, Reason, Reply, Request, codec, limits};
use rustix::net::sockopt::{
    Timeout, set_socket_linger, set_socket_recv_buffer_size, set_socket_send_buffer_size,
    set_socket_timeout,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// How long the socket lingers, in this case for longer than any test waits.
const LINGER: Duration = Duration::from_secs(600);
/// How long everybody else may take to be answered.
const PATIENCE: Duration = Duration::from_secs(20);
/// In this time a heartbeat is due.
const BEAT: Duration = Duration::from_secs(7);
/// A user that the policy does not admit.
const UNADMITTED: u32 = 4711;

/// The socket, and the peer for which it waits.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_socket_recv_buffer_size(&listener, 4096).unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (end, _) = listener.accept().unwrap();
    set_socket_linger(&socket, Some(LINGER)).unwrap();
    set_socket_send_buffer_size(&socket, 4096).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 4096]).is_ok() {}
    (socket.into(), end)
}

fn ping() -> Vec<u8> {
    let body = Body::Ping;
    codec::encode(&Request { id: 1, body }).unwrap()
}

/// A launcher that is attacked, and what it and its broker had before.
struct Scene<'h> {
    agent: &'h Agent<'h>,
    /// The kernel refuses descriptors.
    guarded: bool,
    /// What the sockets wait for. Closed at the test's end, before all else.
    ends: Vec<TcpStream>,
    service: Service,
    before: Option<Open>,
}

/// How much of the machine the two have.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    launchers: usize,
    threads: usize,
    broker: Process,
    brokers: usize,
}

impl Open {
    fn of(service: &Service, broker: Process) -> Self {
        let launcher = service.launcher();
        let threads = fs::read_dir(launcher.file("task")).unwrap();
        Self {
            launchers: launcher.descriptors().len(),
            threads: threads.count(),
            brokers: broker.descriptors().len(),
            broker,
        }
    }
}

fn open_to_all(agent: &Agent) {
    fs::set_permissions(agent.host().path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(agent.socket(), Permissions::from_mode(0o666)).unwrap();
}

/// The attack on this host and on an older one. It says whether the same broker serves afterwards.
fn freezes_nobody(attack: impl Fn(&mut Scene<'_>) -> bool) {
    for without in HOSTS {
        let host = Host::new();
        let agent = host.agent("blue", SLEEP).older(without);
        open_to_all(&agent);
        let mut scene = Scene::start(&agent, without);
        scene.is_served();
        scene.measure();
        let same = attack(&mut scene);
        scene.is_served();
        scene.has_no_more(same);
    }
}

impl<'h> Scene<'h> {
    fn start(agent: &'h Agent<'h>, without: &[Door]) -> Self {
        Self {
            agent,
            guarded: without.is_empty() && has_pass_rights(),
            ends: vec![],
            service: agent.start(),
            before: None,
        }
    }

    /// Once it is at rest: at its start, the launcher asks podman what runs.
    fn measure(&mut self) {
        let broker = self.service.broker();
        let mut last = None;
        holds("the launcher is at rest", || {
            let now = Some(Open::of(&self.service, broker));
            let same = now == last;
            last = now;
            same && self.service.launcher().children() == [broker]
        });
        self.before = last;
    }

    fn client(&self, uid: u32) -> Client {
        let client = Client::connect_as(uid, &self.agent.socket()).unwrap();
        set_socket_timeout(&client, Timeout::Recv, Some(PATIENCE)).unwrap();
        client
    }

    fn clients(&self, uid: u32, number: usize) -> Vec<Client> {
        (0..number).map(|_| self.client(uid)).collect()
    }

    /// Sends such datagrams. From then on their receiver has the only reference.
    fn attach(&mut self, client: &Client) {
        for nested in [false, true, false, true, false, true] {
            let (mut socket, end) = lingering();
            self.ends.push(end);
            if nested {
                // In the queue of another socket.
                let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
                let (one, other) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
                send(&one, &socket);
                socket = other;
            }
            let sent = client.send_descriptors(&ping(), &[socket.as_fd()]);
            if let Err(error) = sent {
                // This test is the last that has the socket, and is not to wait either.
                self.ends.pop();
                assert!(self.guarded, "{error}");
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                client.send_bytes(&ping()).unwrap();
            } else {
                assert!(!self.guarded, "the kernel lets descriptors in");
            }
        }
    }

    /// Somebody else's new connection, and the operator's.
    #[track_caller]
    fn is_served(&mut self) {
        in_time("another client is served", || {
            let mut client = self.client(0);
            // While all places are in use, the answer may be `Busy`, and then the end.
            let sent = client.send(Body::Ping).is_ok();
            let answer = sent.then(|| client.receive().expect("an answer in time"));
            answer
                .flatten()
                .is_some_and(|r| matches!(r.reply, Reply::Pong(_)))
        });
        self.answers_the_operator();
    }

    #[track_caller]
    fn answers_the_operator(&mut self) {
        assert!(self.service.is_running());
        let mut operator = self.service.operator();
        patient(&operator);
        assert!(operator.is_served());
    }

    /// Than before; the sockets linger still.
    #[track_caller]
    fn has_no_more(&self, same_broker: bool) {
        let before = self.before.as_ref().unwrap();
        let broker = self.service.broker();
        assert_eq!(broker == before.broker, same_broker);
        in_time(&format!("no more than {before:?}"), || {
            let now = Open::of(&self.service, broker);
            now.launchers <= before.launchers
                && now.threads <= before.threads
                && now.brokers <= before.brokers
        });
    }
}

/// Sends a descriptor to whoever takes it.
fn send(socket: &OwnedFd, attached: &OwnedFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached = [attached.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&attached)));
    let bytes = [std::io::IoSlice::new(b"x")];
    sendmsg(socket, &bytes, &mut control, SendFlags::empty()).unwrap();
}

fn patient(client: &Client) {
    set_socket_timeout(client, Timeout::Recv, Some(PATIENCE)).unwrap();
}

/// Stops a process until what is returned is dropped.
struct Paused(Process);

fn pause(process: Process) -> Paused {
    process.signal(Signal::STOP);
    let paused = Paused(process);
    holds("it stands still", || {
        process.status()["State"].starts_with('T')
    });
    paused
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// Waits until it is so, but no longer than anybody may have to wait.
#[track_caller]
fn in_time(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn attack_of(scene: &mut Scene<'_>, uid: u32) {
    let mut kept = scene.client(0);
    assert!(kept.is_served());
    let attacker = scene.client(uid);
    let paused = pause(scene.service.broker());
    scene.attach(&attacker);
    drop(paused);
    assert!(kept.is_served());
    scene.is_served();
}

#[test]
fn lingering_datagram_of_an_unadmitted_user_freezes_nobody() {
    freezes_nobody(|scene| {
        attack_of(scene, UNADMITTED);
        true
    });
}

#[test]
fn lingering_datagram_of_an_admitted_user_freezes_nobody() {
    freezes_nobody(|scene| {
        attack_of(scene, 0);
        true
    });
}

/// The launcher then turns clients away by itself.
#[test]
fn lingering_datagram_without_a_broker_freezes_nobody() {
    for without in HOSTS {
        let host = Host::new();
        let script = host.path().join("broker");
        fs::write(&script, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let agent = host
            .agent("blue", SLEEP)
            .older(without)
            .broker_binary(script);
        open_to_all(&agent);
        let mut scene = Scene::start(&agent, without);
        let turned_away = |scene: &mut Scene<'_>| {
            let client = scene.service.client();
            patient(&client);
            let failure = failed(client.reply().reply);
            assert_eq!(failure.reason, Reason::Internal);
            scene.answers_the_operator();
        };
        turned_away(&mut scene);
        let launcher = scene.service.launcher();
        // A broker that starts and ends meanwhile has a link.
        let sockets = || {
            let open = launcher.descriptors();
            let is_socket = |to: &&String| to.starts_with("socket:");
            open.values().filter(is_socket).count()
        };
        let before = sockets();
        for uid in [UNADMITTED, 0] {
            for closes in [false, true] {
                let paused = pause(launcher);
                let attacker = scene.client(uid);
                scene.attach(&attacker);
                let attacker = (!closes).then_some(attacker);
                drop(paused);
                turned_away(&mut scene);
                drop(attacker);
            }
        }
        in_time("the launcher has no more sockets", || sockets() <= before);
    }
}

#[test]
fn lingering_datagram_of_a_client_that_leaves_freezes_nobody() {
    freezes_nobody(|scene| {
        for uid in [UNADMITTED, 0] {
            let paused = [scene.service.launcher(), scene.service.broker()].map(pause);
            let attacker = scene.client(uid);
            scene.attach(&attacker);
            drop(attacker);
            drop(paused);
            scene.is_served();
        }
        true
    });
}

/// While the launcher was away: this kernel, too, lets descriptors into the queue of a listener that systemd made.
#[test]
fn lingering_datagram_from_before_the_start_freezes_nobody() {
    for without in HOSTS {
        let host = Host::new();
        let agent = host.agent("blue", SLEEP).older(without);
        open_to_all(&agent);
        let attackers = [UNADMITTED, 0].map(|uid| {
            let client = Client::connect_as(uid, &agent.socket()).unwrap();
            let (socket, end) = lingering();
            client.send_descriptors(&ping(), &[socket.as_fd()]).unwrap();
            (client, end)
        });
        let mut scene = Scene::start(&agent, without);
        scene.is_served();
        let (clients, ends): (Vec<_>, Vec<_>) = attackers.into_iter().unzip();
        scene.ends = ends;
        scene.measure();
        for client in &clients {
            patient(client);
            // An answer, or the end of a connection that was closed with a datagram in it.
            let _ = client.receive().unwrap();
        }
        drop(clients);
        scene.is_served();
        scene.has_no_more(true);
    }
}

/// The places are used up, so the attackers, who are silent longest, give way to newcomers.
#[test]
fn lingering_datagram_of_an_evicted_client_freezes_nobody() {
    freezes_nobody(|scene| {
        let mut first = scene.clients(0, 1);
        assert!(first[0].is_served());
        let mut attackers = scene.clients(0, 4);
        for client in &mut attackers {
            assert!(client.is_served());
        }
        attackers.extend(scene.clients(UNADMITTED, 4));
        let mut others = scene.clients(0, limits::CONNECTIONS - 9);
        for client in &mut others {
            assert!(client.is_served());
        }
        // From then on whoever is silent for as long as the first one gives way.
        scene.is_served();
        let paused = pause(scene.service.broker());
        for client in &attackers {
            // The unadmitted ones may have been evicted by then.
            if client.send_bytes(&ping()).is_ok() {
                scene.attach(client);
            }
        }
        let mut newcomers = scene.clients(0, 8);
        let send = |client: &mut Client| client.send(Body::Ping).unwrap();
        let ids: Vec<u64> = newcomers.iter_mut().map(send).collect();
        drop(paused);
        for (client, id) in newcomers.iter().zip(ids) {
            let reply = client.reply();
            assert!(matches!(reply.reply, Reply::Pong(_) | Reply::Busy { .. }));
            assert!(reply.id == id || reply.id == 0);
        }
        scene.is_served();
        true
    });
}

/// It is in a connection whose client waits for a launch, so the launcher is the last that has it.
#[test]
fn lingering_datagram_of_a_killed_brokers_client_freezes_nobody() {
    freezes_nobody(|scene| {
        let engine = scene.agent.host().engine();
        engine.hang("run", "sleep-1000");
        let mut attacker = scene.client(0);
        attacker
            .send(Body::Launch(launch("sleep", &["1000"])))
            .unwrap();
        until("podman", || engine.calls().runs().first().map(|_| ()));
        let broker = scene.service.broker();
        let paused = pause(broker);
        scene.attach(&attacker);
        broker.signal(Signal::KILL);
        drop(paused);
        in_time("it ends", || !broker.is_alive());
        scene.is_served();
        engine.release("run");
        in_time("it is launched", || {
            let audit = scene.service.audit();
            !audit.with("verdict", "launched").is_empty()
        });
        if scene.guarded {
            // What else it has sent does not hide the answer.
            let _ = launched(attacker.reply().reply);
        }
        // A side container that runs has descriptors, too.
        engine.must(&["rm", "--force", "--time=0", "sleep-1000"]);
        scene.is_served();
        false
    });
}

#[test]
fn lingering_datagram_of_a_drained_client_freezes_nobody() {
    freezes_nobody(|scene| {
        let attackers = [UNADMITTED, 0].map(|uid| scene.client(uid));
        let old = scene.service.broker();
        let paused = pause(old);
        for attacker in &attackers {
            scene.attach(attacker);
        }
        scene.service.launcher().signal(Signal::HUP);
        holds("the new one serves", || {
            let audit = scene.service.audit();
            audit.with("message", "the broker serves").len() == 2
        });
        scene.is_served();
        drop(paused);
        in_time("it ends", || !old.is_alive());
        scene.is_served();
        false
    });
}

/// As it is at the height of a flood: whoever is admitted would lose its connection with the broker.
#[test]
fn heartbeat_without_room_kills_no_broker() {
    let host = Host::new();
    let agent = host.agent("blue", SLEEP);
    open_to_all(&agent);
    let scene = Scene::start(&agent, &[]);
    let mut kept = scene.client(0);
    assert!(kept.is_served());
    let broker = scene.service.broker();
    let paused = pause(broker);
    // More than the link has room for.
    let _hoard = scene.clients(UNADMITTED, 400);
    let start = Instant::now();
    holds("a heartbeat is due", || start.elapsed() > BEAT);
    drop(paused);
    assert!(kept.is_served());
    // For longer than a heartbeat may stay unanswered.
    let end = kept.receive();
    assert!(end.is_err(), "{end:?}");
    assert_eq!(scene.service.broker(), broker);
}

/// The one that waits for room on a dead broker's link is told, and so are those behind it.
#[test]
fn client_without_room_is_turned_away() {
    let host = Host::new();
    let binary = host.path().join("broker");
    fs::copy(portcullis_tests::binary("portcullis-broker"), &binary).unwrap();
    let agent = host.agent("blue", SLEEP).broker_binary(binary.clone());
    open_to_all(&agent);
    let scene = Scene::start(&agent, &[]);
    assert!(scene.client(0).is_served());
    let broker = scene.service.broker();
    let paused = pause(broker);
    let _hoard = scene.clients(0, 400);
    let script = host.path().join("new");
    fs::write(&script, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::rename(&script, &binary).unwrap();
    std::mem::forget(paused);
    broker.signal(Signal::KILL);
    let failure = failed(scene.client(0).reply().reply);
    assert_eq!(failure.reason, Reason::Internal);
}
