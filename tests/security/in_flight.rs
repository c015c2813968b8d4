//! What the kernel counts per user for the whole host, used up by somebody else with that user: the root of another
//! container, which can become any user where it has no user namespace.

use portcullis_tests::{HOSTS, Host, SLEEP, launch, launched};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Has a thousand descriptors under way between sockets of its own until it is dropped, all counted for that user.
struct Flood(Child);

impl Flood {
    fn of(uid: u32) -> Self {
        let script = "import array, os, socket, sys\n\
             pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(4)]\n\
             null = os.open('/dev/null', os.O_RDONLY)\n\
             for one, _ in pairs:\n    \
                 one.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [null] * 253))])\n\
             print('sent', flush=True)\n\
             sys.stdin.read()\n";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .uid(uid)
            .gid(uid)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "sent\n");
        Self(child)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The broker's user is nobody here, and the launcher's is root.
#[test]
fn descriptors_in_flight_of_others_stop_no_launch() {
    for (uid, without) in [65_534, 0]
        .into_iter()
        .flat_map(|uid| HOSTS.map(|w| (uid, w)))
    {
        let host = Host::new();
        let agent = host.agent("blue", SLEEP).older(without);
        let _service = agent.start();
        let _flood = Flood::of(uid);
        let reply = agent.client().launch(launch("sleep", &["1000"]));
        let _ = launched(reply);
    }
}
