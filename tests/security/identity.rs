//! Who asks, as the kernel says it: what a peer does after it has connected, or claims, changes nothing.

use portcullis_tests::{Agent, Door, HOSTS, Host, Process, binary, launch};
use portcullis_wire::{Body, Reason, Reply, Request, Response, codec};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The one user that the policy admits, and one that it does not.
const ADMITTED: u32 = 4711;
const OTHER: u32 = 4712;

fn agent<'h>(host: &'h Host, without: &[Door]) -> Agent<'h> {
    let agent = host.agent_with_policy(
        "blue",
        &format!(
            r#"
version = 1
[peer]
uid = [{ADMITTED}]
[[launch]]
rule = "sleep"
command = "sleep"
image = "localhost/portcullis-test:1"
program = ["/bin/sleep"]
args = [{{ min = 1, pattern = "{{seconds:int}}" }}]
[launch.container]
name = "sleep-{{seconds}}"
user = "0:0"
"#
        ),
    );
    let agent = agent.older(without);
    let open = |path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(host.path(), 0o755);
    open(&agent.socket(), 0o666);
    agent
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// What is said to a process that connects as that user, with `s` as its socket and `request` as a datagram that asks for
/// a launch, and does what the Python statements say; they send it, or have it sent.
fn answer(agent: &Agent, uid: u32, statements: &str) -> Option<Reply> {
    let body = Body::Launch(launch("sleep", &["1000"]));
    let datagram = codec::encode(&Request { id: 1, body }).unwrap();
    let hex = hex(&datagram);
    let script = format!(
        "import array, os, socket, struct, sys, time\n\
         request = bytes.fromhex('{hex}')\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
         s.settimeout(60)\n\
         s.connect({:?})\n\
         {statements}\n\
         print(s.recv(65536).hex())\n",
        agent.socket()
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]);
    let done = command.uid(uid).gid(uid).output().expect("python3");
    assert!(done.status.success(), "{done:?}");
    let hex = String::from_utf8(done.stdout).unwrap();
    let bytes: Vec<u8> = hex
        .trim()
        .as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect();
    let response: Option<Response> =
        (!bytes.is_empty()).then(|| codec::decode_owned(&bytes).unwrap());
    response.map(|response| response.reply)
}

#[track_caller]
fn launched(reply: Option<Reply>) {
    assert!(matches!(reply, Some(Reply::Launched { .. })), "{reply:?}");
}

#[track_caller]
fn denied(agent: &Agent, reply: Option<Reply>) {
    match reply {
        Some(Reply::Denied { reason, .. }) => assert_eq!(reason, Reason::Peer),
        other => panic!("not denied: {other:?}"),
    }
    assert!(agent.host().engine().calls().runs().is_empty());
}

#[test]
fn another_program_after_connect_is_still_who_connected() {
    for without in HOSTS {
        let host = Host::new();
        let agent = agent(&host, without);
        let _service = agent.start();
        let exec = "s.setblocking(True); os.set_inheritable(s.fileno(), True)\n\
                    script = 'import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); \
                    s.send(bytes.fromhex(sys.argv[2])); print(s.recv(65536).hex())'\n\
                    os.execvp('python3', ['python3', '-c', script, str(s.fileno()), request.hex()])";
        denied(&agent, answer(&agent, OTHER, exec));
        launched(answer(&agent, ADMITTED, exec));
    }
}

#[test]
fn setuid_after_connect_makes_nobody_admitted() {
    for without in HOSTS {
        let host = Host::new();
        let agent = agent(&host, without);
        let _service = agent.start();
        // Root may become anybody, and connected as root, which the policy does not admit.
        let admitted = format!("os.setgid({ADMITTED}); os.setuid({ADMITTED}); s.send(request)");
        denied(&agent, answer(&agent, 0, &admitted));
        launched(answer(&agent, ADMITTED, "s.send(request)"));
    }
}

#[test]
fn forged_credentials_in_a_datagram_are_not_looked_at() {
    for without in HOSTS {
        let host = Host::new();
        let agent = agent(&host, without);
        let _service = agent.start();
        // Root may forge them; the kernel then hands them on to whoever asks for SCM_CREDENTIALS.
        let forged = format!(
            "admitted = struct.pack('3i', os.getpid(), {ADMITTED}, {ADMITTED})\n\
             s.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, admitted)])"
        );
        denied(&agent, answer(&agent, 0, &forged));
    }
}

#[test]
fn a_recycled_number_is_not_taken_for_the_peer_that_had_it() {
    recycled_number_is_denied(&[], "");
}

/// Before Linux 6.5 that is all that can be noticed: a number that was given away after its process was looked at.
#[test]
fn number_recycled_after_the_first_look_is_denied() {
    let body = Body::Ping;
    let ping = hex(&codec::encode(&Request { id: 1, body }).unwrap());
    for without in HOSTS {
        recycled_number_is_denied(
            without,
            &format!("s.send(bytes.fromhex('{ping}')); s.recv(65536)"),
        );
    }
}

/// A child connects, does what the Python statements say, and ends; its number is given to the next child, which lives.
fn recycled_number_is_denied(without: &[Door], statements: &str) {
    let host = Host::new();
    let agent = agent(&host, without);
    let _service = agent.start();
    // The kernel gives out the number after ns_last_pid, which another process of this machine may take first: then it
    // is tried again.
    let recycled = format!(
        "s.close()\n\
         for attempt in range(1000):\n\
         \x20   s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
         \x20   s.settimeout(60)\n\
         \x20   first = os.fork()\n\
         \x20   if first == 0:\n\
         \x20       os.setgid({ADMITTED}); os.setuid({ADMITTED})\n\
         \x20       s.connect({:?})\n\
         \x20       {statements}\n\
         \x20       os._exit(0)\n\
         \x20   os.waitpid(first, 0)\n\
         \x20   with open('/proc/sys/kernel/ns_last_pid', 'w') as last: last.write(str(first - 1))\n\
         \x20   second = os.fork()\n\
         \x20   if second == 0:\n\
         \x20       os.setgid({ADMITTED}); os.setuid({ADMITTED})\n\
         \x20       time.sleep(3600)\n\
         \x20   if second == first: break\n\
         \x20   os.kill(second, 9); os.waitpid(second, 0)\n\
         else: sys.exit('the number was never given out again')\n\
         s.send(request)\n\
         answer = s.recv(65536)\n\
         os.kill(second, 9); os.waitpid(second, 0)\n\
         print(answer.hex()); sys.exit()",
        agent.socket()
    );
    denied(&agent, answer(&agent, 0, &recycled));
}

#[test]
fn root_of_a_user_namespace_is_who_the_host_sees() {
    for without in HOSTS {
        let host = Host::new();
        let agent = agent(&host, without);
        let _service = agent.start();
        // The checkout may lie in somebody's home, which no other user can enter.
        let client = host.path().join("portcullis");
        // Not by this process: what another test starts meanwhile would have it open for writing for a moment.
        let mut copy = Command::new("cp");
        assert!(
            copy.arg(binary("portcullis"))
                .arg(&client)
                .status()
                .unwrap()
                .success()
        );
        // It calls itself root, and whoever it likes, in there; the host sees the user that made the namespace.
        let root = |host_uid: u32, inside: u32| {
            let mut command = Command::new("unshare");
            command.args(["--user", &format!("--map-user={inside}"), "--"]);
            command.arg(&client).arg("--socket");
            command
                .arg(agent.socket())
                .args(["run", "--json", "sleep", "1000"]);
            let done = command.uid(host_uid).gid(host_uid).output().unwrap();
            String::from_utf8(done.stdout).unwrap() + &String::from_utf8_lossy(&done.stderr)
        };
        let said = root(OTHER, ADMITTED);
        assert!(said.contains("\"reason\":\"peer\""), "{said}");
        assert!(host.engine().calls().runs().is_empty());
        let said = root(ADMITTED, 0);
        assert!(said.contains("\"answer\":\"launched\""), "{said}");
    }
}

#[test]
fn the_audit_says_in_which_container_a_peer_is() {
    let host = Host::new();
    let agent = agent(&host, &[]);
    let service = agent.start();
    let directory = agent.socket().parent().unwrap().display().to_string();
    let client = binary("portcullis").display().to_string();
    let id = host.engine().must(&[
        "run",
        "--detach",
        "--name=the-agent",
        "--network=none",
        &format!("--user={ADMITTED}:{ADMITTED}"),
        &format!("--volume={directory}:/run/portcullis:ro"),
        &format!("--volume={client}:/bin/portcullis:ro"),
        "--",
        portcullis_tests::IMAGE,
        "/bin/sh",
        "-c",
        "/bin/portcullis run sleep 1000 && /bin/sleep 1000",
    ]);
    portcullis_tests::holds("it is launched", || {
        !service.audit().with("verdict", "launched").is_empty()
    });
    let audit = service.audit();
    let record = audit.with("verdict", "launched")[0];
    assert_eq!(record["peer_container"], id.trim());
    assert_eq!(record["peer_uid"], ADMITTED);
    // A peer of the host is in none.
    let _ = answer(&agent, ADMITTED, "s.send(request)");
    let audit = service.audit();
    assert!(audit.with("verdict", "reused")[0]["peer_container"].is_null());
    assert!(Process::find(i32::try_from(record["pid"].as_i64().unwrap()).unwrap()).is_some());
}
