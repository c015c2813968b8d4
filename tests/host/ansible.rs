//! The role and the migration, run by a real Ansible on this side against a machine.

use crate::agent::{Agent, UID, policy};
use portcullis_tests::{IMAGE, Machine, holds, package};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// An operator's control node: an inventory with one machine, which is entered instead of called by SSH.
struct Control {
    dir: TempDir,
}

/// What Ansible's recap says, and all that it printed.
struct Run {
    changed: u32,
    failed: u32,
    text: String,
}

impl Control {
    fn new(machine: &Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let enter = dir.path().join("enter");
        let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
        let shell = machine.command("sh");
        let words: Vec<_> = shell
            .get_args()
            .map(|a| quoted(a.to_str().unwrap()))
            .collect();
        // Of ssh's arguments the last is the line to run.
        fs::write(
            &enter,
            format!(
                "#!/bin/sh\nfor line; do :; done\n\
                 exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 {} {} -c \"$line\"\n",
                quoted(shell.get_program().to_str().unwrap()),
                words.join(" ")
            ),
        )
        .unwrap();
        fs::set_permissions(&enter, fs::Permissions::from_mode(0o755)).unwrap();
        let inventory = format!(
            "machine ansible_connection=ssh ansible_ssh_executable={} ansible_ssh_args='' \
             ansible_ssh_transfer_method=piped ansible_pipelining=true \
             ansible_python_interpreter=/usr/bin/python3 ansible_become=false\n",
            enter.display()
        );
        fs::write(dir.path().join("inventory"), inventory).unwrap();
        Self { dir }
    }

    /// Runs a playbook with those variables.
    fn run(&self, playbook: &Path, variables: &Value, options: &[&str]) -> Run {
        let done = ansible("ansible-playbook")
            .arg("--inventory")
            .arg(self.dir.path().join("inventory"))
            .args(["--extra-vars", &variables.to_string()])
            .args(options)
            .arg(playbook)
            .env("ANSIBLE_HOME", self.dir.path())
            .output()
            .unwrap();
        let text = text(&done);
        let count = |what: &str| {
            let recap = text.lines().rfind(|line| line.starts_with("machine "));
            let mut words = recap.unwrap_or_else(|| panic!("{text}")).split_whitespace();
            let number = words.find_map(|word| word.strip_prefix(what));
            number.unwrap().parse().unwrap()
        };
        let (changed, failed) = (count("changed="), count("failed="));
        assert_eq!(done.status.success(), failed == 0, "{text}");
        Run {
            changed,
            failed,
            text,
        }
    }

    /// Runs a playbook, which must not fail, and gives the number of changes.
    #[track_caller]
    fn must(&self, playbook: &Path, variables: &Value, options: &[&str]) -> u32 {
        let run = self.run(playbook, variables, options);
        assert_eq!(run.failed, 0, "{}", run.text);
        run.changed
    }

    /// A playbook with the role alone, which leaves the volumes on the machine.
    fn role(&self) -> PathBuf {
        let path = self.dir.path().join("role.yml");
        let volumes = json!({
            "ansible.builtin.copy": { "content": "{{ portcullis_volumes }}", "dest": "/root/volumes.json", "mode": "0644" },
        });
        let play = json!([{
            "hosts": "all",
            "roles": [ours().join("roles/portcullis")],
            "post_tasks": [volumes],
        }]);
        fs::write(&path, play.to_string()).unwrap();
        path
    }
}

/// What this repository has for Ansible.
fn ours() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ansible")
}

/// One of Ansible's commands, of a pinned version.
fn ansible(program: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("host/ansible.sh");
    let made = Command::new(script).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let bin = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim_end()).join("bin");
    let mut command = Command::new(bin.join(program));
    command.env_clear();
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    command.envs([
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ]);
    command
}

fn text(done: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&done.stdout) + &text(&done.stderr)
}

/// A policy of one rule that denies whatever it is asked for.
fn rules(agent: &str, command: &str) -> String {
    policy(
        agent,
        &format!(
            "[allow]\nunpinned-image = \"built here\"\n\
             [[launch]]\nrule = \"r\"\ncommand = \"{command}\"\nimage = \"{IMAGE}\"\nargs = []\n\
             [launch.container]\nname = \"{{agent}}-{command}\"\nuser = \"1:1\"\nmemory = \"64MiB\"\n"
        ),
    )
}

fn agents(agents: &Value) -> Value {
    json!({ "portcullis_package": package(), "portcullis_agents": agents })
}

#[test]
fn ansibles_linter_has_nothing_to_say() {
    let done = ansible("ansible-lint")
        .args(["--offline", "--strict", "--profile=production", "--nocolor"])
        .args(["migrate.yml", "roles/portcullis"])
        .current_dir(ours())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", text(&done));
}

#[test]
fn a_role_sets_a_machine_up_and_changes_nothing_when_it_runs_again() {
    let machine = Machine::boot();
    let control = Control::new(&machine);
    let role = control.role();
    let wanted = agents(&json!([
        { "name": "web", "content": rules("web", "httpd"), "applets": ["/bin/httpd"],
          "drop_ins": [{ "name": "10-more", "content": rules("web", "wget").split_once("[[launch]]").map(|(_, rule)|
              format!("[[launch]]{}", rule.replace("\"r\"", "\"more\""))) }] },
        { "name": "neutron-dhcp", "preset": "neutron-dhcp", "vars": { "state": "/var/lib/neutron/kolla" }, "netns": false },
    ]));

    assert_ne!(control.must(&role, &wanted, &["--check", "--diff"]), 0);
    machine.must("test ! -e /usr/bin/portcullis-policy && test ! -e /etc/portcullis");
    assert_ne!(control.must(&role, &wanted, &["--diff"]), 0);
    for options in [&[][..], &["--check"][..]] {
        let again = control.run(&role, &wanted, options);
        assert_eq!((again.changed, again.failed), (0, 0), "{}", again.text);
    }

    machine.must("portcullis-policy check");
    machine.must(
        "grep -q '^state = \"/var/lib/neutron/kolla\"' /etc/portcullis/agents/neutron-dhcp.toml",
    );
    for agent in ["web", "neutron-dhcp"] {
        machine.must(&format!("systemctl is-enabled portcullis@{agent}.socket"));
        assert_eq!(
            machine.property(&format!("portcullis@{agent}.socket"), "SubState"),
            "listening"
        );
        assert!(machine.running("portcullis-launcher").is_empty());
    }

    // The volumes are what an agent needs: the applet asks for the command that its name is.
    let volumes: Value = serde_json::from_str(&machine.must("cat /root/volumes.json")).unwrap();
    let volumes = volumes["web"].as_array().unwrap();
    let volumes: Vec<_> = volumes
        .iter()
        .map(|v| format!("--volume={}", v.as_str().unwrap()))
        .collect();
    machine.must("mkdir -p /run/netns");
    let asked = machine.shell(&format!(
        "podman run --rm --network=none --user={UID}:{UID} --cap-drop=all {} {IMAGE} /bin/httpd --nope",
        volumes.join(" ")
    ));
    let answer = text(&asked);
    assert!(!asked.status.success(), "{answer}");
    assert!(answer.contains("argument"), "{answer}");
    let denied = || machine.journal("--unit=portcullis@web.service PORTCULLIS_VERDICT=denied");
    holds("the denial is on record", || !denied().is_empty());
    let audit = denied();
    assert_eq!(audit[0]["PORTCULLIS_COMMAND"], "httpd");
}

#[test]
fn a_role_makes_an_agents_spools_and_systemd_watches_what_the_policy_has() {
    let machine = Machine::boot();
    let control = Control::new(&machine);
    let role = control.role();
    let wanted = |spool: &str| {
        let dir = format!("/var/spool/portcullis/lines/{spool}");
        let text = rules("lines", "httpd").replace(
            "[[launch]]",
            &format!("[[spool]]\ncommand = \"httpd\"\ndir = \"{dir}\"\n[[launch]]\nspool = true"),
        );
        agents(&json!([
            { "name": "web", "content": rules("web", "httpd") },
            { "name": "lines", "content": text, "applets": ["/bin/httpd"],
              "spools": [{ "command": "httpd", "dir": dir, "owner": UID, "group": UID }] },
        ]))
    };
    let watched = || machine.property("portcullis-spool@lines.path", "Paths");
    for spool in ["one", "other"] {
        let wanted = wanted(spool);
        assert_ne!(control.must(&role, &wanted, &["--check", "--diff"]), 0);
        assert!(!watched().contains(spool));
        assert_ne!(control.must(&role, &wanted, &["--diff"]), 0);
        for options in [&[][..], &["--check"][..]] {
            let again = control.run(&role, &wanted, options);
            assert_eq!((again.changed, again.failed), (0, 0), "{}", again.text);
        }
        let timestamp = format!("/var/spool/portcullis/lines/{spool}/processes-timestamp");
        assert_eq!(watched(), format!("{timestamp} (PathModified)"));
        machine.must("systemctl is-enabled portcullis-spool@lines.path");
    }
    assert_eq!(
        machine.must("stat -c '%u %a' /var/spool/portcullis/lines/*"),
        format!("{UID} 750\n{UID} 750")
    );
    assert_eq!(
        machine.must("stat -c '%u %a' /var/spool/portcullis/lines"),
        "0 755"
    );
    machine.must("test ! -e /etc/systemd/system/portcullis-spool@web.path.d");

    // The volumes are what an agent needs: without the socket's, the applet leaves a line.
    let volumes: Value = serde_json::from_str(&machine.must("cat /root/volumes.json")).unwrap();
    let volumes: Vec<_> = volumes["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| format!("--volume={}", v.as_str().unwrap()))
        .filter(|v| !v.contains("/run/portcullis"))
        .collect();
    machine.must("mkdir -p /run/netns");
    machine.must(&format!(
        "podman run --rm --network=none --user={UID}:{UID} --cap-drop=all {} {IMAGE} /bin/httpd --nope",
        volumes.join(" ")
    ));
    let denied = || machine.journal("--unit=portcullis@lines.service PORTCULLIS_VERDICT=denied");
    holds("the line is judged", || !denied().is_empty());
    let audit = denied();
    assert_eq!(audit[0]["PORTCULLIS_REASON"], "argument");
    assert_eq!(
        audit[0]["PORTCULLIS_SPOOL"],
        "/var/spool/portcullis/lines/other"
    );
}

/// Whoever can write above a spool can put a link in its way, be it as the agent's uid or as a container's uid 0.
#[test]
fn links_in_a_spools_way_are_refused() {
    let machine = Machine::boot();
    let control = Control::new(&machine);
    let mut spools = Vec::new();
    for uid in [0, UID] {
        let (home, victim) = (format!("/srv/agent-{uid}"), format!("/root/victim-{uid}"));
        machine.must(&format!(
            "mkdir -p {home}/real {victim}/deep && chown -R {uid}:{uid} {home} && chmod 0700 {victim} {victim}/deep && \
             ln -s {victim} {home}/last && ln -s {victim} {home}/middle && ln -s nowhere {home}/dangling && \
             chown -h {uid}:{uid} {home}/*"
        ));
        for dir in [
            "last",
            "middle/new",
            "middle/deep",
            "middle/new/er",
            "dangling",
            "real/../last",
        ] {
            let dir = format!("{home}/{dir}");
            spools.push(json!({ "command": "httpd", "dir": dir, "owner": UID, "group": UID }));
        }
    }
    let count = spools.len();
    let wanted = agents(&json!([
        { "name": "lines", "content": rules("lines", "httpd"), "spools": spools }
    ]));
    let before = machine.must("find /root/victim-* -printf '%p %U %G %m\\n' | sort");
    for options in [&[][..], &["--check"]] {
        let refused = control.run(&control.role(), &wanted, options);
        assert_eq!(refused.failed, 1, "{}", refused.text);
        let refusals = refused
            .text
            .matches("failed: [machine] (item=lines/httpd)")
            .count();
        assert_eq!(refusals, count, "{}", refused.text);
    }
    let after = machine.must("find /root/victim-* -printf '%p %U %G %m\\n' | sort");
    assert_eq!(after, before);
    machine.must("test ! -e /srv/agent-0/nowhere");
}

#[test]
fn a_broken_policy_is_refused_and_the_others_are_in_force_without_a_restart() {
    let machine = Machine::boot();
    let control = Control::new(&machine);
    let role = control.role();
    let with = |a: &str, b: &str| {
        agents(&json!([{ "name": "a", "content": a }, { "name": "b", "content": b }]))
    };
    let good = rules("a", "httpd");
    control.must(&role, &with(&good, &rules("b", "httpd")), &[]);
    // However long the next run takes.
    let configuration = "[broker]\nidle_exit = \"0\"\n";
    machine.write("/etc/portcullis/portcullis.toml", configuration);
    let agent = Agent {
        machine: &machine,
        name: "b".into(),
    };
    machine.must("mkdir -p /srv/b /run/netns");
    agent.start_container(&[]);
    assert_eq!(agent.run("wget")["reason"], "no-rule");
    let main = || machine.property("portcullis@b.service", "MainPID");
    let before = main();

    let refused = control.run(
        &role,
        &with(&good.replace("command", "comand"), &rules("b", "wget")),
        &[],
    );
    assert_eq!(refused.failed, 1);
    assert!(
        refused.text.contains("did you mean `command`?"),
        "{}",
        refused.text
    );
    assert_eq!(
        machine.must("cat /etc/portcullis/agents/a.toml"),
        good.trim_end()
    );
    holds("the other policy is in force", || {
        agent.run("wget --nope")["reason"] == "argument"
    });
    assert_eq!(main(), before);
    // What is idle was not started for it.
    assert_eq!(
        machine.property("portcullis@a.service", "ActiveState"),
        "inactive"
    );
}

/// A container that runs, with the volumes of an agent.
fn container(machine: &Machine, name: &str, options: &str) -> String {
    machine.must(&format!(
        "podman run --detach --name={name} --network=none {options} {IMAGE} /bin/sleep infinity >/dev/null"
    ));
    pid(machine, name)
}

fn pid(machine: &Machine, name: &str) -> String {
    machine.must(&format!(
        "podman container inspect --format='{{{{.State.Pid}}}}' {name}"
    ))
}

#[test]
fn a_host_with_wrappers_is_migrated_twice_and_its_containers_run_on() {
    let machine = Machine::boot();
    let control = Control::new(&machine);
    let migrate = ours().join("migrate.yml");
    let wanted = agents(&json!([]));
    // The play finds the agents by itself.
    let wanted = json!({ "portcullis_package": wanted["portcullis_package"] });
    machine.must(
        "mkdir -p /run/netns /run/podman /etc/kolla/neutron-dhcp-agent /var/lib/neutron/neutron-dnsmasq && \
         touch /run/podman/podman.sock /var/lib/neutron/neutron-dnsmasq/wrapper && \
         mkdir -p /var/lib/config-data/puppet-generated/neutron",
    );
    let helper = container(&machine, "neutron-dnsmasq-qdhcp-1", "");
    let policy = || machine.must("cat /etc/portcullis/agents/neutron-dhcp.toml");
    let twice = || {
        let first = control.run(&migrate, &wanted, &["--diff"]);
        assert_eq!(first.failed, 0, "{}", first.text);
        assert_ne!(first.changed, 0, "{}", first.text);
        let again = control.run(&migrate, &wanted, &[]);
        assert_eq!((again.changed, again.failed), (0, 0), "{}", again.text);
        again.text
    };

    let l3 = container(&machine, "neutron_l3_agent", "");
    let nothing = control.run(&migrate, &wanted, &[]);
    assert_eq!(
        (nothing.changed, nothing.failed),
        (0, 0),
        "{}",
        nothing.text
    );
    assert!(nothing.text.contains("neutron_l3_agent stays as it is"));

    let kolla = container(
        &machine,
        "neutron_dhcp_agent",
        "--env=KOLLA_NEUTRON_WRAPPERS=true --volume=neutron_metadata_socket:/var/lib/neutron/kolla/ \
         --volume=/etc/kolla/neutron-dhcp-agent/:/var/lib/kolla/config_files/:ro --volume=/run/netns:/run/netns:shared \
         --volume=/run/podman/podman.sock:/run/podman/podman.sock",
    );
    let said = twice();
    let written = policy();
    for line in [
        "state = \"/var/lib/neutron/kolla\"",
        "host = \"/var/lib/containers/storage/volumes/neutron_metadata_socket/_data\"",
        "config = \"/etc/kolla/neutron-dhcp-agent\"",
        &format!("image = \"{IMAGE}\""),
    ] {
        assert!(
            written.lines().any(|l| l.starts_with(line)),
            "{line}\n{written}"
        );
    }
    for line in [
        "/run/portcullis/neutron-dhcp:/run/portcullis:ro",
        "/usr/local/lib/portcullis/neutron-dhcp/dnsmasq:/usr/local/lib/neutron-wrappers/dnsmasq:ro",
        "Without the volume of /run/podman/podman.sock",
        "neutron_dhcp_agent_extra_volumes",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("/run/netns:/run/netns:ro"), "{said}");
    assert_eq!(pid(&machine, "neutron_dhcp_agent"), kolla);
    machine.must("podman rm --force --time=0 neutron_dhcp_agent");

    let tripleo = container(
        &machine,
        "neutron_dhcp",
        "--volume=/var/lib/neutron:/var/lib/neutron \
         --volume=/var/lib/config-data/puppet-generated/neutron:/var/lib/kolla/config_files/src:ro \
         --volume=/var/lib/neutron/neutron-dnsmasq/wrapper:/usr/local/bin/dnsmasq:ro",
    );
    let said = twice();
    let written = policy();
    for line in [
        "host = \"/var/lib/neutron\"",
        "config = \"/var/lib/config-data/puppet-generated/neutron/etc/neutron\"",
    ] {
        assert!(
            written.lines().any(|l| l.starts_with(line)),
            "{line}\n{written}"
        );
    }
    for line in [
        "/usr/local/lib/portcullis/neutron-dhcp/dnsmasq:/usr/local/bin/dnsmasq:ro",
        "systemctl disable --now neutron-dnsmasq.path",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert_eq!(pid(&machine, "neutron_dhcp"), tripleo);

    // Recreated as was said.
    machine.must("podman rm --force --time=0 neutron_dhcp");
    container(
        &machine,
        "neutron_dhcp",
        "--volume=/var/lib/neutron:/var/lib/neutron --volume=/run/netns:/run/netns:ro,rslave \
         --volume=/var/lib/config-data/puppet-generated/neutron:/var/lib/kolla/config_files/src:ro \
         --volume=/run/portcullis/neutron-dhcp:/run/portcullis:ro \
         --volume=/usr/local/lib/portcullis/neutron-dhcp/dnsmasq:/usr/local/bin/dnsmasq:ro",
    );
    let done = control.run(&migrate, &wanted, &[]);
    assert_eq!((done.changed, done.failed), (0, 0), "{}", done.text);
    assert!(done.text.contains("nothing remains"), "{}", done.text);
    assert_eq!(pid(&machine, "neutron_l3_agent"), l3);
    assert_eq!(pid(&machine, "neutron-dnsmasq-qdhcp-1"), helper);
}
