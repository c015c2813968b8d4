//! Decodes and decides one dnsmasq request as Neutron makes it, under its own policy, once: for counting instructions.
#![allow(clippy::unwrap_used, clippy::panic)]

use portcullis_policy::{Decision, Peer, Policy, decide};
use portcullis_wire::{AgentName, Body, Launch, PolicyText, Request, codec};
use std::hint::black_box;

const POLICY: &str = include_str!("../../../policy/tests/data/neutron.toml");
const NETWORK: &str = "6fbb2a8e-5a5b-4f8c-9d5f-1f2b9d9a7c11";

/// What is counted; valgrind finds it by its name.
#[inline(never)]
fn decode_and_decide(policy: &Policy, datagram: &[u8]) -> bool {
    let peer = Peer::Process {
        uid: 0,
        gid: 0,
        pid: 4711,
    };
    let Ok(Request {
        body: Body::Launch(launch),
        ..
    }) = codec::decode_request(datagram)
    else {
        return false;
    };
    matches!(
        black_box(decide(policy, &peer, &launch)),
        Decision::Allow(_)
    )
}

fn main() {
    let file = PolicyText {
        path: "neutron.toml".into(),
        text: POLICY.into(),
    };
    let agent = AgentName::new("neutron").unwrap();
    let policy = Policy::load(&agent, &[file]).unwrap_or_else(|problems| panic!("{problems}"));
    let state = format!("/var/lib/neutron/dhcp/{NETWORK}");
    let subnet = "subnet-2b0f3a2c-8f5e-4b67-9a63-0c5f1d2e3a4b";
    let args = [
        "--no-hosts".to_owned(),
        "--no-resolv".to_owned(),
        format!("--pid-file={state}/pid"),
        format!("--dhcp-hostsfile={state}/host"),
        format!("--addn-hosts={state}/addn_hosts"),
        format!("--dhcp-optsfile={state}/opts"),
        format!("--dhcp-leasefile={state}/leases"),
        "--dhcp-match=set:ipxe,175".to_owned(),
        "--dhcp-userclass=set:ipxe6,iPXE".to_owned(),
        "--local-service".to_owned(),
        "--bind-dynamic".to_owned(),
        format!("--dhcp-range=set:{subnet},192.168.100.0,static,255.255.255.0,86400s"),
        format!("--dhcp-range=set:{subnet},2001:db8::,static,64,86400s"),
        "--dhcp-option-force=option:mtu,1450".to_owned(),
        "--dhcp-lease-max=256".to_owned(),
        "--conf-file=/dev/null".to_owned(),
        "--domain=openstacklocal".to_owned(),
    ];
    let body = Body::Launch(Launch {
        command: "dnsmasq".into(),
        args: args.into(),
        netns: Some(format!("qdhcp-{NETWORK}")),
        ..Launch::default()
    });
    let datagram = codec::encode(&Request { id: 1, body }).unwrap();
    assert!(
        decode_and_decide(&policy, black_box(&datagram)),
        "it is allowed"
    );
}
