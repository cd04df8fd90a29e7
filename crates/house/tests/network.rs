//! Machines that talk to each other, by every transport that needs no privileges.
#![forbid(unsafe_code)]

use house::machine::{Line, Programs, Running};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
/// What crosses the network in one direction.
const BULK_BYTES: usize = 16 << 20;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

/// A directory of one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = house::repository().join("target/guest-tests").join(format!("network-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

/// A switch that runs until the test ends.
struct Switch {
    child: Child,
    control: PathBuf,
}

impl Switch {
    fn start(program: &Path, scratch: &Scratch, name: &str) -> Switch {
        let control = scratch.0.join(name);
        let mut command = Command::new(program);
        command.arg("-unix").arg(&control).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let switch = Switch { child: command.spawn().unwrap(), control };
        let until = Instant::now() + LIMIT;
        while std::os::unix::net::UnixStream::connect(&switch.control).is_err() {
            assert!(Instant::now() < until, "the switch does not serve");
            std::thread::sleep(Duration::from_millis(10));
        }
        switch
    }

    fn device(&self, unit: u32) -> String {
        format!("eth{unit}=daemon,,unix,{}", self.control.display())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our switch, built beside the program.
fn our_switch() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let directory = programs().linux.parent().unwrap().to_path_buf();
            if std::env::var_os("UMLAUT_PROGRAMS").is_none() {
                let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                cargo.current_dir(house::repository()).args(["build", "--quiet", "-p", "tools", "--bin", "uml_switch", "--bin", "tunctl"]);
                if !cfg!(debug_assertions) {
                    cargo.arg("--release");
                }
                assert!(cargo.status().unwrap().success());
            }
            directory.join("uml_switch")
        })
        .clone()
}

/// A machine that runs a script of busybox's shell, whose first line of output is to be `ready` if it goes on beside others.
fn machine(devices: &[String], script: &str) -> Running {
    let mut command = Command::new(&programs().umlaut);
    command.args(["run", "--mem", "192M", "--cpus", "1", "--workdir", "/tmp"]);
    for device in devices {
        command.args(["--device", device]);
    }
    command.args(["--", "busybox", "sh", "-c", script]);
    Running::start(&mut command).unwrap()
}

/// The output up to a line, or to its end.
fn until(machine: &mut Running, wanted: &str) -> String {
    let mut seen = String::new();
    loop {
        match machine.line(LIMIT) {
            Line::Is(line) => {
                seen += &format!("{line}\n");
                if line == wanted {
                    return seen;
                }
            }
            Line::Ended if wanted.is_empty() => return seen,
            other => panic!("waited for {wanted:?}: {other:?}\n{seen}"),
        }
    }
}

/// The last line that a command of the host says.
fn host_says(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn bulk() -> String {
    format!("yes frames | head -c {BULK_BYTES}")
}

/// Two machines: pings, none lost, and a stream whose bytes arrive as they were sent.
fn converse(first: &str, second: &str) {
    converse_by("eth0", first, second);
}

fn converse_by(name: &str, first: &str, second: &str) {
    let server = "ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up && mkfifo /tmp/open && echo ready && nc -l -p 5000 <>/tmp/open | sha256sum";
    let mut server = machine(&[second.to_owned()], &server.replace("eth0", name));
    until(&mut server, "ready");
    let client = format!(
        "ip addr add 10.9.0.1/24 dev eth0 && ip link set eth0 up && cat /sys/class/net/eth0/address && ping -q -c 30 -A 10.9.0.2 && \
         {} | nc 10.9.0.2 5000; ip -s link show eth0; echo ended",
        bulk()
    );
    let mut client = machine(&[first.to_owned()], &client.replace("eth0", name));
    let said = until(&mut client, "ended");
    assert!(said.contains("30 packets received, 0% packet loss"), "{said}");
    assert_eq!(said.lines().next(), Some("fe:fd:0a:09:00:01"), "{said}");
    let sum = until(&mut server, "");
    assert_eq!(sum.trim_end(), host_says(&format!("{} | sha256sum", bulk())));
}

#[test]
fn two_machines_talk_by_our_switch() {
    let scratch = Scratch::new("ours");
    let switch = Switch::start(&our_switch(), &scratch, "ctl");
    converse(&switch.device(0), &switch.device(0));
}

#[test]
fn two_machines_talk_by_debians_switch() {
    let theirs = Path::new("/usr/bin/uml_switch");
    if !theirs.exists() {
        println!("skipped: uml_switch of uml-utilities is not installed");
        return;
    }
    let scratch = Scratch::new("debian");
    let switch = Switch::start(theirs, &scratch, "ctl");
    converse(&switch.device(0), &switch.device(0));
}

#[test]
fn two_machines_talk_by_a_multicast_group() {
    // Each run has a port of its own, so that runs on one host do not meet.
    let port = 20_000 + std::process::id() % 10_000;
    let device = format!("eth0=mcast,,239.192.168.77,{port}");
    converse(&device, &device);
}

#[test]
fn two_machines_talk_by_datagrams_from_one_to_the_other() {
    let port = 30_000 + std::process::id() % 10_000 * 2;
    converse(&format!("eth0=ucast,,127.0.0.1,{port},{}", port + 1), &format!("eth0=ucast,,127.0.0.1,{},{port}", port + 1));
}

#[test]
fn two_machines_talk_by_a_pair_of_sockets_that_they_inherit() {
    use rustix::io::{FdFlags, fcntl_setfd};
    use std::os::fd::AsRawFd;
    let (first, second) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let device = |end: &std::os::unix::net::UnixDatagram| {
        // Other tests' machines may inherit it too; they look at none that they are not told of.
        fcntl_setfd(end, FdFlags::empty()).unwrap();
        format!("vec0:transport=fd,fd={},depth=32", end.as_raw_fd())
    };
    converse_by("vec0", &device(&first), &device(&second));
}

/// Runs a script of the host's shell in a network namespace of its own, with `$UMLAUT` and `$TUNCTL`; `None` where that is not allowed.
fn in_a_namespace(script: &str) -> Option<String> {
    let may = Command::new("unshare").args(["-n", "sh", "-c", "ip link set lo up && exec 3<>/dev/net/tun"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!("skipped: no root, no namespaces or no /dev/net/tun here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", &format!("set -e; ip link set lo up; {script}; echo ended")]);
    command.env("UMLAUT", &programs().umlaut).env("TUNCTL", our_switch().with_file_name("tunctl")).env("SWITCH", our_switch());
    Some(until(&mut Running::start(&mut command).unwrap(), "ended"))
}

/// A machine with `device` and the host behind tap `tap7`: pings, and streams both ways.
fn converse_by_tap(device: &str, name: &str) {
    let bulk = bulk();
    let guest = format!(
        "ip addr add 10.77.0.2/24 dev {name}; ip link set {name} up; ping -q -c 30 -A 10.77.0.1; mkfifo /tmp/open;
         nc 10.77.0.1 5000 <>/tmp/open | sha256sum; {bulk} | nc 10.77.0.1 5001"
    );
    let script = format!(
        "$TUNCTL -t tap7; ip addr add 10.77.0.1/24 dev tap7; ip link set tap7 up; open=$(mktemp -u); mkfifo $open;
         {bulk} | busybox nc -l -p 5000 & busybox nc -l -p 5001 <>$open | sha256sum & sleep 0.3
         $UMLAUT run --mem 192M --cpus 1 --workdir /tmp --device {device} -- busybox sh -c '{guest}'; wait; rm $open; $TUNCTL -d tap7"
    );
    let Some(said) = in_a_namespace(&script) else { return };
    assert!(said.contains("30 packets received, 0% packet loss"), "{said}");
    let sum = host_says(&format!("{bulk} | sha256sum"));
    assert_eq!(said.matches(&sum).count(), 2, "{said}");
    assert!(said.contains("Set 'tap7' persistent and owned by uid 0\n") && said.contains("Set 'tap7' nonpersistent\n"), "{said}");
}

#[test]
fn a_machine_talks_with_the_host_by_a_vector_tap_with_large_packets() {
    converse_by_tap("vec0:transport=tap,ifname=tap7,gro=1", "vec0");
}

#[test]
fn a_machine_talks_with_the_host_by_a_tap_that_tunctl_made() {
    converse_by_tap("eth0=tuntap,tap7", "eth0");
}

#[test]
fn a_machine_talks_with_the_host_through_an_interface_of_the_host() {
    let script = "ip link add p0 type veth peer name p1 2>/dev/null || { echo no veth; exit 0; }
        ip addr add 10.78.0.1/24 dev p0; ip link set p0 up; ip link set p1 up
        $UMLAUT run --mem 192M --cpus 1 --workdir /tmp --device vec0:transport=raw,ifname=p1 -- \
        busybox sh -c 'ip addr add 10.78.0.2/24 dev vec0; ip link set vec0 up; ping -q -c 10 -A 10.78.0.1'";
    let Some(said) = in_a_namespace(script) else { return };
    if said.contains("no veth") {
        println!("skipped: no root, no namespaces or no /dev/net/tun here (and no veth)");
        return;
    }
    assert!(said.contains("10 packets received, 0% packet loss"), "{said}");
}

#[test]
fn a_switch_reaches_the_host_by_its_tap() {
    let script = "$TUNCTL -t tap7 >/dev/null; ip addr add 10.79.0.1/24 dev tap7; ip link set tap7 up; at=$(mktemp -d)
        $SWITCH -unix $at/ctl -tap tap7 </dev/null >$at/log & pid=$!
        until grep -q attached $at/log; do sleep 0.05; done
        $UMLAUT run --mem 192M --cpus 1 --workdir /tmp --device eth0=daemon,,unix,$at/ctl -- \
        busybox sh -c 'ip addr add 10.79.0.2/24 dev eth0; ip link set eth0 up; ping -q -c 10 -A 10.79.0.1'; kill $pid; head -1 $at/log; rm -r $at";
    let Some(said) = in_a_namespace(script) else { return };
    assert!(said.contains("10 packets received, 0% packet loss") && said.contains(" tap device 'tap7'\n"), "{said}");
}

#[test]
fn a_machine_between_two_switches_forwards() {
    let scratch = Scratch::new("router");
    let (left, right) = (Switch::start(&our_switch(), &scratch, "left"), Switch::start(&our_switch(), &scratch, "right"));
    let script = "ip addr add 10.1.0.254/24 dev eth0; ip addr add 10.2.0.254/24 dev eth1; ip link set eth0 up; ip link set eth1 up
        echo 1 > /proc/sys/net/ipv4/ip_forward; echo ready; sleep 300";
    let mut router = machine(&[left.device(0), right.device(1)], script);
    until(&mut router, "ready");
    let far = "ip addr add 10.2.0.1/24 dev eth0; ip link set eth0 up; ip route add default via 10.2.0.254; echo ready; sleep 300";
    let mut far = machine(&[right.device(0)], far);
    until(&mut far, "ready");
    let near = "ip addr add 10.1.0.1/24 dev eth0; ip link set eth0 up; ip route add default via 10.1.0.254; ping -q -c 20 -A 10.2.0.1
        ping -c 1 -t 1 10.2.0.1 >/dev/null || echo too far; echo ended";
    let said = until(&mut machine(&[left.device(0)], near), "ended");
    assert!(said.contains("20 packets received, 0% packet loss") && said.contains("too far"), "{said}");
}

#[test]
fn moving_a_route_moves_the_traffic_and_the_idle_interface_stays_still() {
    let scratch = Scratch::new("failover");
    let switches = ["first", "second"].map(|name| Switch::start(&our_switch(), &scratch, name));
    let devices = [switches[0].device(0), switches[1].device(1)];
    let both = |host: u8| format!("for i in 0 1; do ip addr add 10.$i.0.{host}/24 dev eth$i; ip link set eth$i up; done");
    let mut peer = machine(&devices, &format!("{}; ip addr add 10.99.0.2/32 dev lo; echo ready; sleep 300", both(2)));
    until(&mut peer, "ready");
    let script = format!(
        "{}; count() {{ cat /sys/class/net/eth$1/statistics/tx_packets; }}
         drill() {{
             ip route add 10.99.0.2 via 10.$1.0.2; a=$(count 0); b=$(count 1)
             ping -q -c 40 -A 10.99.0.2 | grep received; echo $1 $(($(count 0) - a)) $(($(count 1) - b)); ip route del 10.99.0.2
         }}
         drill 0; drill 1; ping -c 1 10.99.0.2 2>&1 | grep -i unreachable; echo ended",
        both(1)
    );
    let said = until(&mut machine(&devices, &script), "ended");
    assert_eq!(said.matches("40 packets received, 0% packet loss").count(), 2, "{said}");
    let counts = |wanted: &str| -> Vec<u32> {
        let line = said.lines().find_map(|line| line.strip_prefix(wanted)).unwrap_or_else(|| panic!("{said}"));
        line.split(' ').filter_map(|word| word.parse().ok()).collect()
    };
    // Beside the pings there are a few solicitations.
    let (first, second) = (counts("0 "), counts("1 "));
    assert!(first[0] >= 40 && first[1] < 10 && second[0] < 10 && second[1] >= 40, "{said}");
    assert!(said.to_lowercase().contains("unreachable"), "{said}");
}

#[test]
fn iproute2_and_net_tools_make_change_and_show_interfaces_routes_rules_and_neighbours() {
    if !Path::new("/sbin/ip").exists() {
        println!("skipped: iproute2 is not installed");
        return;
    }
    let script = "PATH=/usr/sbin:/sbin:/usr/bin:/bin; /sbin/ip monitor all > /tmp/heard & sleep 0.5
        /sbin/ip link add d0 type dummy; /sbin/ip link add v0 type veth peer name v1; /sbin/ip link set d0 up; /sbin/ip addr add 10.5.0.1/24 dev d0
        /sbin/ip route add 10.9.0.0/16 via 10.5.0.7 metric 5; /sbin/ip route add blackhole 10.10.0.0/16; /sbin/ip route get 10.9.1.1
        /sbin/ip rule add from 10.5.0.0/24 table 100 prio 500; /sbin/ip rule; /sbin/ip rule del prio 500
        /sbin/ip neigh add 10.5.0.9 lladdr 02:00:00:00:00:09 dev d0; /sbin/ip neigh; cat /proc/net/arp
        /sbin/ip link set v0 name cable; ls /sys/class/net; /sbin/ip link del cable; ls /sys/class/net; cat /proc/net/route
        /sbin/ip addr del 10.5.0.1/24 dev d0; /sbin/ip link del d0; kill %1; cat /tmp/heard; echo ended";
    let said = until(&mut machine(&[], script), "ended");
    for wanted in [
        "10.9.1.1 via 10.5.0.7 dev d0 src 10.5.0.1",
        "500:\tfrom 10.5.0.0/24 lookup 100",
        "10.5.0.9 dev d0 lladdr 02:00:00:00:00:09 PERMANENT",
        "10.5.0.9         0x1         0x6         02:00:00:00:00:09     *        d0",
        "cable\nd0\nlo\nv1\nd0\nlo\n",
        "d0\t0000090A\t0700050A\t0003\t0\t0\t5\t0000FFFF",
        "[ADDR]Deleted ",
        "[ROUTE]blackhole 10.10.0.0/16",
        "[LINK]Deleted ",
    ] {
        assert!(said.contains(wanted), "not said: {wanted}\n{said}");
    }
}

#[test]
fn an_interface_loses_its_carrier_with_its_switch_and_finds_another_when_it_goes_up_again() {
    let scratch = Scratch::new("carrier");
    let switch = Switch::start(&our_switch(), &scratch, "ctl");
    let script = "ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up; c=/sys/class/net/eth0/carrier
        until grep -q 1 $c; do sleep 0.05; done; echo up
        until grep -q 0 $c; do sleep 0.05; done; echo down
        until ip link set eth0 down && ip link set eth0 up 2>/dev/null; do sleep 0.05; done
        until grep -q 1 $c; do sleep 0.05; done; echo again";
    let mut machine = machine(&[switch.device(0)], script);
    until(&mut machine, "up");
    drop(switch);
    until(&mut machine, "down");
    let _switch = Switch::start(&our_switch(), &scratch, "ctl");
    until(&mut machine, "again");
}

#[test]
fn settings_that_make_no_sense_are_said_and_a_setting_alone_makes_an_interface() {
    let script = "/usr/bin/dmesg | grep -c 'Netdevice 1 : mcast backend multicast address: 239.192.168.1:1102, TTL:1'; ls /sys/class/net; echo ended";
    let said = until(&mut machine(&["eth1=mcast".to_owned()], script), "ended");
    assert_eq!(said, "1\neth1\nlo\nended\n");
    // A command that was promised a network does not start without.
    for (devices, wanted) in [
        (&["eth0=mcast,,10.0.0.1"][..], "mcast_setup - 10.0.0.1 is no multicast address"),
        (&["eth1=mcast", "eth1=mcast"], "eth_setup - Couldn't parse '1=mcast' : Device already configured"),
        (&["eth2=pcap,eth0"], "pcap: not supported yet"),
        (&["eth3=pigeon"], "eth: there is no transport 'pigeon'"),
    ] {
        let devices: Vec<String> = devices.iter().map(|device| (*device).to_owned()).collect();
        let said = until(&mut machine(&devices, "echo it runs"), "");
        assert!(said.contains(wanted) && !said.contains("it runs"), "not said: {wanted}\n{said}");
    }
}
