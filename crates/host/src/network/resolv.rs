//! The host's name servers and search domains (resolv.conf(5)), read anew each time: laptops move.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

const PATH: &str = "/etc/resolv.conf";
/// What the host's C library looks at.
const SERVERS_MAX: usize = 3;
const DNS_PORT: u16 = 53;

pub fn name_servers() -> Vec<SocketAddr> {
    parse_servers(&std::fs::read_to_string(PATH).unwrap_or_default())
}

pub fn search_domains() -> Vec<String> {
    parse_search(&std::fs::read_to_string(PATH).unwrap_or_default())
}

fn parse_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = words(text, &["nameserver"]).filter_map(|mut words| parse_server(words.next()?)).collect();
    servers.truncate(SERVERS_MAX);
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
    }
    servers
}

/// An address, with the interface behind `%` where it is link-local.
fn parse_server(word: &str) -> Option<SocketAddr> {
    let (address, zone) = word.split_once('%').map_or((word, None), |(address, zone)| (address, Some(zone)));
    match (address.parse().ok()?, zone) {
        (IpAddr::V6(address), Some(zone)) => {
            let index = zone.parse().ok().or_else(|| interface_index(zone))?;
            Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
        }
        (address, None) => Some(SocketAddr::new(address, DNS_PORT)),
        _ => None,
    }
}

fn interface_index(name: &str) -> Option<u32> {
    let plain = !name.is_empty() && !name.contains('/');
    plain.then(|| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()).flatten()
}

/// The last `search` or `domain` line counts.
fn parse_search(text: &str) -> Vec<String> {
    words(text, &["search", "domain"]).last().map(|words| words.map(str::to_owned).collect()).unwrap_or_default()
}

/// What follows these keywords, line by line.
fn words<'a>(text: &'a str, keywords: &'a [&str]) -> impl Iterator<Item = std::str::SplitWhitespace<'a>> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        keywords.contains(&first).then_some(words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_host_reads_them() {
        let text = "# x\nnameserver 192.0.2.1\n  nameserver 2001:db8::1\nnameserver nonsense\nsearch a.example b.example\noptions edns0\n";
        assert_eq!(parse_servers(text), ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        assert_eq!(parse_search(text), ["a.example", "b.example"]);
        assert_eq!(parse_servers(""), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(parse_servers("nameserver fe80::1%7"), [SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7))]);
        assert_eq!(parse_search("search a\ndomain b.example\n"), ["b.example"]);
    }
}
