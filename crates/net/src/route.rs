//! Routing: tables of prefixes with metrics, rules that choose the table, and what path MTU discovery and redirects learned
//! (ip-route(8), ip-rule(8), RFC 1812, RFC 1191, RFC 8201).
//!
//! What it is not: forwarding. A lookup answers where a packet goes; `ip` acts on it.

use core::net::IpAddr;
use std::collections::BTreeMap;

use abi::Errno;

use crate::interface::{InterfaceId, Interfaces, Scope};
use crate::prefix::{Family, Prefix, bits, mask};

/// The table of the machine's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;
/// The ordinary table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The last table asked (`RT_TABLE_DEFAULT`).
pub const TABLE_DEFAULT: u32 = 253;
/// Remembered exceptions (path MTUs, redirects), at most.
const MAX_EXCEPTIONS: usize = 4096;

/// What a route does (`rtm_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// To a gateway or a link.
    Unicast,
    /// To this machine.
    Local,
    /// To everyone on a link.
    Broadcast,
    /// To a group.
    Multicast,
    /// Nowhere, silently (EINVAL to local senders).
    Blackhole,
    /// Nowhere (EHOSTUNREACH, ICMP host unreachable).
    Unreachable,
    /// Nowhere (EACCES, ICMP administratively prohibited).
    Prohibit,
    /// This table has no answer; ask the next rule.
    Throw,
}

/// One way of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nexthop {
    /// Through whom; `None` is directly on the link.
    pub gateway: Option<IpAddr>,
    /// Out of which interface.
    pub interface: InterfaceId,
    /// Share of the flows in a multipath route, from 1.
    pub weight: u32,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// To where.
    pub prefix: Prefix,
    /// What it does.
    pub kind: RouteKind,
    /// Which traffic class; 0 is any.
    pub tos: u8,
    /// Smaller is better (`RTA_PRIORITY`).
    pub metric: u32,
    /// Who made it (`rtm_protocol`): 2 the kernel, 3 boot, 4 an administrator, 9 router advertisements.
    pub protocol: u8,
    /// How far the destination is.
    pub scope: Scope,
    /// Ways; more than one share the flows.
    pub nexthops: Vec<Nexthop>,
    /// The address to send from (`RTA_PREFSRC`).
    pub source: Option<IpAddr>,
    /// Path MTU by decree; 0 is the interface's.
    pub mtu: u32,
    /// Most data in a segment to announce; 0 follows the MTU.
    pub advertised_mss: u32,
    /// Initial congestion window in segments; 0 is the default of ten.
    pub initial_window: u32,
    /// When it goes away (router advertisements).
    pub expires_ns: u64,
}

impl Route {
    /// A route to `prefix` through `gateway` (or directly) out of `interface`, metric 0.
    #[must_use]
    pub fn new(prefix: Prefix, gateway: Option<IpAddr>, interface: InterfaceId) -> Route {
        Route {
            prefix: prefix.network(),
            kind: RouteKind::Unicast,
            tos: 0,
            metric: 0,
            protocol: 3,
            scope: if gateway.is_some() { Scope::Universe } else { Scope::Link },
            nexthops: vec![Nexthop { gateway, interface, weight: 1 }],
            source: None,
            mtu: 0,
            advertised_mss: 0,
            initial_window: 0,
            expires_ns: u64::MAX,
        }
    }

    /// The same with another kind.
    #[must_use]
    pub fn kind(self, kind: RouteKind) -> Route {
        Route { kind, ..self }
    }

    /// The same with another metric.
    #[must_use]
    pub fn metric(self, metric: u32) -> Route {
        Route { metric, ..self }
    }

    fn same_place(&self, other: &Route) -> bool {
        (self.prefix, self.tos, self.metric) == (other.prefix, other.tos, other.metric)
    }
}

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleAction {
    /// Ask this table.
    Table(u32),
    /// As a route of that kind: blackhole, unreachable or prohibit.
    Refuse(RouteKind),
}

/// A rule: which table answers for which packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Smaller is asked first.
    pub priority: u32,
    /// Of which family.
    pub family: Family,
    /// From where.
    pub src: Option<Prefix>,
    /// To where.
    pub dst: Option<Prefix>,
    /// Arrived on.
    pub input: Option<InterfaceId>,
    /// Bound to leave on.
    pub output: Option<InterfaceId>,
    /// Mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Traffic class.
    pub tos: Option<u8>,
    /// Applies to what does not match.
    pub invert: bool,
    /// What it does.
    pub action: RuleAction,
}

impl Rule {
    /// A rule for everything of a family.
    #[must_use]
    pub fn new(priority: u32, family: Family, action: RuleAction) -> Rule {
        Rule { priority, family, src: None, dst: None, input: None, output: None, mark: None, tos: None, invert: false, action }
    }

    fn matches(&self, query: &Query) -> bool {
        let hit = self.src.is_none_or(|prefix| query.src.is_some_and(|src| prefix.contains(src)))
            && self.dst.is_none_or(|prefix| prefix.contains(query.dst))
            && self.input.is_none_or(|id| id == query.input)
            && self.output.is_none_or(|id| id == query.output)
            && self.mark.is_none_or(|(mark, mask)| query.mark & mask == mark & mask)
            && self.tos.is_none_or(|tos| tos == query.tos & 0x1c);
        hit != self.invert
    }
}

/// What a lookup is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// To where.
    pub dst: IpAddr,
    /// From where, when fixed.
    pub src: Option<IpAddr>,
    /// Arrived on; none for local packets.
    pub input: InterfaceId,
    /// Bound to leave on.
    pub output: InterfaceId,
    /// Firewall mark.
    pub mark: u32,
    /// Traffic class byte.
    pub tos: u8,
    /// Chooses the way of a multipath route.
    pub flow: u64,
}

impl Query {
    /// A local packet to `dst` with nothing else fixed.
    #[must_use]
    pub fn to(dst: IpAddr) -> Query {
        Query { dst, src: None, input: InterfaceId::NONE, output: InterfaceId::NONE, mark: 0, tos: 0, flow: 0 }
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What kind of destination.
    pub kind: RouteKind,
    /// Out of which interface; for local ones the loopback or the owner.
    pub interface: InterfaceId,
    /// The neighbour to hand it to.
    pub next: IpAddr,
    /// Whether `next` is a gateway.
    pub via_gateway: bool,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// MTU that the route decrees; 0 for none.
    pub mtu: u32,
    /// MSS that the route decrees; 0 for none.
    pub advertised_mss: u32,
    /// Initial congestion window in segments; 0 for none.
    pub initial_window: u32,
}

type Fib = BTreeMap<u8, BTreeMap<u128, Vec<Route>>>;

#[derive(Clone, Copy, Debug)]
struct Exception {
    mtu: Option<(u32, u64)>,
    gateway: Option<(IpAddr, InterfaceId, u64)>,
}

/// Tables, rules and exceptions.
#[derive(Default)]
pub struct Routes {
    tables: BTreeMap<(Family, u32), Fib>,
    rules: Vec<Rule>,
    exceptions: BTreeMap<IpAddr, Exception>,
    /// Counts changes, for sockets that keep a decision.
    pub generation: u64,
}

impl Routes {
    /// Empty tables with the three rules that every machine starts with.
    #[must_use]
    pub fn new() -> Routes {
        let mut routes = Routes::default();
        for family in [Family::V4, Family::V6] {
            for (priority, table) in [(0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT)] {
                routes.rules.push(Rule::new(priority, family, RuleAction::Table(table)));
            }
        }
        routes.rules.sort_by_key(|rule| rule.priority);
        routes
    }

    /// Adds a route. EEXIST when one to the same prefix with the same class and metric is there (IPv6 adds a way to it instead).
    pub fn add(&mut self, table: u32, route: Route) -> Result<(), Errno> {
        let family = Family::of(route.prefix.address);
        let route = Route { prefix: route.prefix.network(), ..route };
        let fib = self.tables.entry((family, table)).or_default();
        let slot = fib.entry(route.prefix.len).or_default().entry(bits(route.prefix.address)).or_default();
        if let Some(there) = slot.iter_mut().find(|there| there.same_place(&route)) {
            let fresh: Vec<Nexthop> = route.nexthops.iter().filter(|hop| !there.nexthops.contains(hop)).copied().collect();
            if family == Family::V4 || fresh.is_empty() || there.kind != route.kind {
                return Err(Errno::EEXIST);
            }
            there.nexthops.extend(fresh);
        } else {
            slot.push(route);
            slot.sort_by_key(|route| (route.metric, core::cmp::Reverse(route.tos)));
        }
        self.generation += 1;
        Ok(())
    }

    /// Adds a route in place of one to the same prefix with the same class and metric.
    pub fn replace(&mut self, table: u32, route: Route) {
        let _ = self.remove(table, |there| there.same_place(&Route { prefix: route.prefix.network(), ..route.clone() }));
        let _ = self.add(table, route);
    }

    /// Removes the first route that `matches`. ESRCH when there is none.
    pub fn remove(&mut self, table: u32, matches: impl Fn(&Route) -> bool) -> Result<Route, Errno> {
        for family in [Family::V4, Family::V6] {
            let Some(fib) = self.tables.get_mut(&(family, table)) else { continue };
            for slot in fib.values_mut().flat_map(BTreeMap::values_mut) {
                if let Some(at) = slot.iter().position(&matches) {
                    let route = slot.remove(at);
                    self.generation += 1;
                    self.prune();
                    return Ok(route);
                }
            }
        }
        Err(Errno::ESRCH)
    }

    /// Keeps only the routes that `keep` wants; answers those that went, with their tables.
    pub fn retain(&mut self, keep: impl Fn(u32, &Route) -> bool) -> Vec<(u32, Route)> {
        let mut gone = Vec::new();
        for (&(_, table), fib) in &mut self.tables {
            for slot in fib.values_mut().flat_map(BTreeMap::values_mut) {
                slot.retain(|route| {
                    let stays = keep(table, route);
                    if !stays {
                        gone.push((table, route.clone()));
                    }
                    stays
                });
            }
        }
        if !gone.is_empty() {
            self.generation += 1;
            self.prune();
        }
        gone
    }

    fn prune(&mut self) {
        for fib in self.tables.values_mut() {
            fib.values_mut().for_each(|slots| slots.retain(|_, slot| !slot.is_empty()));
            fib.retain(|_, slots| !slots.is_empty());
        }
    }

    /// All routes of all tables.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Route)> {
        self.tables
            .iter()
            .flat_map(|(&(_, table), fib)| fib.values().rev().flat_map(BTreeMap::values).flatten().map(move |route| (table, route)))
    }

    /// When the next route expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        self.iter().map(|(_, route)| route.expires_ns).filter(|&at| at != u64::MAX).min()
    }

    /// When the next exception expires.
    #[must_use]
    pub fn next_exception_expiry(&self) -> Option<u64> {
        let times = |exception: &Exception| {
            [exception.mtu.map(|(_, expires)| expires), exception.gateway.map(|(_, _, expires)| expires)].into_iter().flatten().min()
        };
        self.exceptions.values().filter_map(times).min()
    }

    /// Adds a rule, behind those of the same priority.
    pub fn add_rule(&mut self, rule: Rule) {
        let at = self.rules.partition_point(|there| there.priority <= rule.priority);
        self.rules.insert(at, rule);
        self.generation += 1;
    }

    /// Removes the first rule that `matches`. ENOENT when there is none.
    pub fn remove_rule(&mut self, matches: impl Fn(&Rule) -> bool) -> Result<Rule, Errno> {
        let at = self.rules.iter().position(matches).ok_or(Errno::ENOENT)?;
        self.generation += 1;
        Ok(self.rules.remove(at))
    }

    /// All rules in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Where a packet goes. ENETUNREACH when no table knows, or what the matching route says.
    pub fn lookup(&self, query: &Query, interfaces: &Interfaces) -> Result<Decision, Errno> {
        let family = Family::of(query.dst);
        for rule in self.rules.iter().filter(|rule| rule.family == family && rule.matches(query)) {
            let table = match rule.action {
                RuleAction::Table(table) => table,
                RuleAction::Refuse(kind) => return Err(refusal(kind)),
            };
            let Some((route, hop)) = self.tables.get(&(family, table)).and_then(|fib| best(fib, query, interfaces)) else { continue };
            if route.kind == RouteKind::Throw {
                continue;
            }
            return self.decide(query, route, hop);
        }
        Err(Errno::ENETUNREACH)
    }

    fn decide(&self, query: &Query, route: &Route, hop: Option<Nexthop>) -> Result<Decision, Errno> {
        let Some(hop) = hop else { return Err(refusal(route.kind)) };
        let mut decision = Decision {
            kind: route.kind,
            interface: hop.interface,
            next: hop.gateway.unwrap_or(query.dst),
            via_gateway: hop.gateway.is_some(),
            source: route.source,
            mtu: route.mtu,
            advertised_mss: route.advertised_mss,
            initial_window: route.initial_window,
        };
        if let Some(Exception { gateway: Some((gateway, interface, _)), .. }) = self.exceptions.get(&query.dst)
            && *interface == hop.interface
            && route.kind == RouteKind::Unicast
        {
            (decision.next, decision.via_gateway) = (*gateway, true);
        }
        Ok(decision)
    }

    /// The learned path MTU to `dst`.
    #[must_use]
    pub fn path_mtu(&self, dst: IpAddr, now_ns: u64) -> Option<u32> {
        self.exceptions.get(&dst)?.mtu.filter(|(_, expires)| *expires > now_ns).map(|(mtu, _)| mtu)
    }

    /// Remembers a path MTU until `expires_ns`.
    pub fn set_path_mtu(&mut self, dst: IpAddr, mtu: u32, expires_ns: u64) {
        self.exception(dst).mtu = Some((mtu, expires_ns));
        self.generation += 1;
    }

    /// Remembers a redirect until `expires_ns`.
    pub fn set_redirect(&mut self, dst: IpAddr, gateway: IpAddr, interface: InterfaceId, expires_ns: u64) {
        self.exception(dst).gateway = Some((gateway, interface, expires_ns));
        self.generation += 1;
    }

    fn exception(&mut self, dst: IpAddr) -> &mut Exception {
        if self.exceptions.len() >= MAX_EXCEPTIONS && !self.exceptions.contains_key(&dst) {
            // Whoever can forge this many keeps what it forged last; nothing else is harmed.
            self.exceptions.pop_first();
        }
        self.exceptions.entry(dst).or_insert(Exception { mtu: None, gateway: None })
    }

    /// Forgets exceptions: all (`ip route flush cache`), or those past their time.
    pub fn flush_exceptions(&mut self, expired_at_ns: Option<u64>) {
        match expired_at_ns {
            None => self.exceptions.clear(),
            Some(now) => self.exceptions.retain(|_, exception| {
                exception.mtu = exception.mtu.filter(|(_, expires)| *expires > now);
                exception.gateway = exception.gateway.filter(|(_, _, expires)| *expires > now);
                exception.mtu.is_some() || exception.gateway.is_some()
            }),
        }
        self.generation += 1;
    }
}

/// What a local sender sees of a refusing route.
fn refusal(kind: RouteKind) -> Errno {
    match kind {
        RouteKind::Blackhole => Errno::EINVAL,
        RouteKind::Prohibit => Errno::EACCES,
        RouteKind::Unreachable => Errno::EHOSTUNREACH,
        _ => Errno::ENETUNREACH,
    }
}

/// The longest prefix with a usable way, and among those the best metric.
fn best<'a>(fib: &'a Fib, query: &Query, interfaces: &Interfaces) -> Option<(&'a Route, Option<Nexthop>)> {
    let address = bits(query.dst);
    for (&len, slots) in fib.iter().rev() {
        let Some(slot) = slots.get(&(address & mask(len))) else { continue };
        for route in slot.iter().filter(|route| route.tos == 0 || route.tos == query.tos & 0x1c) {
            match route.kind {
                RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw => return Some((route, None)),
                // A local address is reached whatever interface the sender is bound to.
                RouteKind::Local if query.output == InterfaceId::NONE || !query.dst.is_multicast() => {
                    return Some((route, route.nexthops.first().copied()));
                }
                _ => {}
            }
            let usable = |hop: &&Nexthop| {
                (query.output == InterfaceId::NONE || hop.interface == query.output) && interfaces.get(hop.interface).is_some_and(|i| i.up)
            };
            let total: u64 = route.nexthops.iter().filter(usable).map(|hop| u64::from(hop.weight.max(1))).sum();
            if total == 0 {
                continue;
            }
            let mut share = query.flow % total;
            for hop in route.nexthops.iter().filter(usable) {
                let weight = u64::from(hop.weight.max(1));
                if share < weight {
                    return Some((route, Some(*hop)));
                }
                share -= weight;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Dummy;
    use crate::wire::MacAddress;

    fn interfaces() -> Interfaces {
        let mut interfaces = Interfaces::default();
        for name in ["eth0", "eth1"] {
            let id = interfaces.add(name, Box::new(Dummy::new(MacAddress::ZERO))).unwrap();
            interfaces.get_mut(id).unwrap().up = true;
        }
        interfaces
    }

    fn route(prefix: &str, gateway: Option<&str>, interface: u32) -> Route {
        Route::new(prefix.parse().unwrap(), gateway.map(|g| g.parse().unwrap()), InterfaceId(interface))
    }

    fn next(routes: &Routes, interfaces: &Interfaces, dst: &str) -> Result<String, Errno> {
        routes.lookup(&Query::to(dst.parse().unwrap()), interfaces).map(|d| format!("{} if{}", d.next, d.interface.0))
    }

    #[test]
    fn the_longest_prefix_wins_then_the_metric_then_what_is_up() {
        let mut interfaces = interfaces();
        let mut routes = Routes::new();
        routes.add(TABLE_MAIN, route("0.0.0.0/0", Some("10.0.0.1"), 1)).unwrap();
        routes.add(TABLE_MAIN, route("0.0.0.0/0", Some("10.1.0.1"), 2).metric(5)).unwrap();
        routes.add(TABLE_MAIN, route("10.0.0.0/8", None, 1)).unwrap();
        routes.add(TABLE_MAIN, route("10.9.0.0/16", Some("10.1.0.9"), 2)).unwrap();
        assert_eq!(routes.add(TABLE_MAIN, route("10.9.0.0/16", None, 1)), Err(Errno::EEXIST));
        assert_eq!(next(&routes, &interfaces, "10.9.1.1").unwrap(), "10.1.0.9 if2");
        assert_eq!(next(&routes, &interfaces, "10.8.1.1").unwrap(), "10.8.1.1 if1");
        assert_eq!(next(&routes, &interfaces, "8.8.8.8").unwrap(), "10.0.0.1 if1");
        interfaces.get_mut(InterfaceId(1)).unwrap().up = false;
        assert_eq!(next(&routes, &interfaces, "8.8.8.8").unwrap(), "10.1.0.1 if2");
        assert_eq!(next(&routes, &interfaces, "2001:db8::1"), Err(Errno::ENETUNREACH));
    }

    #[test]
    fn rules_choose_tables_by_source_and_mark() {
        let interfaces = interfaces();
        let mut routes = Routes::new();
        routes.add(TABLE_MAIN, route("0.0.0.0/0", Some("10.0.0.1"), 1)).unwrap();
        routes.add(100, route("0.0.0.0/0", Some("10.1.0.1"), 2)).unwrap();
        routes.add(101, route("10.7.0.0/16", None, 1).kind(RouteKind::Prohibit)).unwrap();
        routes.add_rule(Rule { mark: Some((7, 0xff)), ..Rule::new(50, Family::V4, RuleAction::Table(100)) });
        routes.add_rule(Rule { src: Some("10.5.0.0/16".parse().unwrap()), ..Rule::new(60, Family::V4, RuleAction::Table(101)) });
        let ask = |src: &str, mark, dst: &str| {
            let query = Query { src: Some(src.parse().unwrap()), mark, ..Query::to(dst.parse().unwrap()) };
            routes.lookup(&query, &interfaces).map(|d| d.interface.0)
        };
        assert_eq!(ask("10.4.0.1", 0, "8.8.8.8"), Ok(1));
        assert_eq!(ask("10.4.0.1", 0x107, "8.8.8.8"), Ok(2));
        assert_eq!(ask("10.5.0.1", 0, "10.7.0.1"), Err(Errno::EACCES));
        assert_eq!(ask("10.5.0.1", 0, "10.8.0.1"), Ok(1));
    }

    #[test]
    fn flows_share_a_multipath_route_by_weight() {
        let interfaces = interfaces();
        let mut routes = Routes::new();
        let mut multipath = route("0.0.0.0/0", Some("10.0.0.1"), 1);
        multipath.nexthops.push(Nexthop { gateway: "10.1.0.1".parse().ok(), interface: InterfaceId(2), weight: 3 });
        routes.add(TABLE_MAIN, multipath).unwrap();
        let second = (0..400).filter(|&flow| {
            let query = Query { flow, ..Query::to("8.8.8.8".parse().unwrap()) };
            routes.lookup(&query, &interfaces).is_ok_and(|d| d.interface.0 == 2)
        });
        assert_eq!(second.count(), 300);
    }
}
