//! Group membership: who listens to what on each interface, and telling routers (IGMP: RFC 1112, 2236, 3376; MLD: RFC 2710, 3810).
//!
//! What it is not: source filters. Sockets filter by source themselves; what is reported to routers is always "all sources".
//!
//! Always true: 224.0.0.1, ff02::1 and groups of interface scope are never reported; an answer to a query is sent at a random time within
//! what the query allows.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::core::{Core, IpInfo, MILLISECOND, SECOND};
use crate::interface::{InterfaceId, Membership};
use crate::ip::SendOptions;
use crate::packet::Packet;
use crate::prefix::Family;
use crate::route::{Decision, RouteKind};
use crate::wire::checksum::checksum;
use crate::wire::icmp::v6;
use crate::wire::igmp::{self, RecordKind, Version};
use crate::wire::{array, ipv4, protocol};

/// Unsolicited reports of a new membership (the robustness variable).
const ROBUSTNESS: u8 = 2;
/// How long an old querier is remembered.
const OLD_QUERIER_NS: u64 = 260 * SECOND;
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const IGMP3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);

/// Whether routers hear of this group.
fn is_reported(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group != Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => group != Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) && group.octets()[1] & 0xf > 1,
    }
}

impl Core {
    /// One more listener to `group` on an interface.
    pub fn join(&mut self, id: InterfaceId, group: IpAddr) {
        let now_ns = self.now_ns;
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        if let Some(membership) = interface.groups.get_mut(&group) {
            membership.users += 1;
            return;
        }
        let reports = is_reported(group) && !interface.is_loopback();
        let due = reports.then_some(now_ns);
        let repeats = if reports { ROBUSTNESS } else { 0 };
        interface.groups.insert(group, Membership { users: 1, report_at_ns: due, repeats, changed: true, last_reporter: false });
        interface.update_filter();
        if reports {
            self.keep_house_at(now_ns);
        }
    }

    /// One listener fewer.
    pub fn leave(&mut self, id: InterfaceId, group: IpAddr) {
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        let Some(membership) = interface.groups.get_mut(&group) else { return };
        membership.users = membership.users.saturating_sub(1);
        if membership.users > 0 {
            return;
        }
        let last_reporter = membership.last_reporter;
        interface.groups.remove(&group);
        interface.update_filter();
        let tell = is_reported(group) && !interface.is_loopback() && interface.up;
        if tell {
            self.report_left(id, group, last_reporter);
        }
    }

    fn querier(&self, id: InterfaceId, family: Family) -> Version {
        let Some(interface) = self.interfaces.get(id) else { return Version::Three };
        let (version, until_ns) = interface.querier[family.index()];
        if until_ns > self.now_ns { version } else { Version::Three }
    }

    fn report_left(&mut self, id: InterfaceId, group: IpAddr, last_reporter: bool) {
        match (group, self.querier(id, Family::of(group))) {
            (_, Version::Three) => self.send_records(id, Family::of(group), RecordKind::ToInclude, &[group]),
            (IpAddr::V4(group), Version::Two) if last_reporter => {
                self.send_igmp(id, ALL_ROUTERS, &igmp::igmp_message(igmp::IGMP2_LEAVE, group));
            }
            (IpAddr::V6(group), Version::Two) if last_reporter => {
                let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
                self.send_mld(id, all_routers, &igmp::mld_message(v6::MLD_DONE, group));
            }
            _ => {}
        }
    }

    fn send_report(&mut self, id: InterfaceId, group: IpAddr, changed: bool) {
        match (group, self.querier(id, Family::of(group))) {
            (_, Version::Three) => {
                let kind = if changed { RecordKind::ToExclude } else { RecordKind::IsExclude };
                self.send_records(id, Family::of(group), kind, &[group]);
            }
            (IpAddr::V4(group), version) => {
                let kind = if version == Version::One { igmp::IGMP1_REPORT } else { igmp::IGMP2_REPORT };
                self.send_igmp(id, group, &igmp::igmp_message(kind, group));
            }
            (IpAddr::V6(group), _) => self.send_mld(id, group, &igmp::mld_message(v6::MLD_REPORT, group)),
        }
    }

    fn send_records(&mut self, id: InterfaceId, family: Family, kind: RecordKind, groups: &[IpAddr]) {
        match family {
            Family::V4 => {
                let records = groups.iter().filter_map(|group| match group {
                    IpAddr::V4(group) => Some((kind, *group, Vec::new())),
                    IpAddr::V6(_) => None,
                });
                let records: Vec<_> = records.collect();
                self.send_igmp(id, IGMP3_ROUTERS, &igmp::igmp3_report(&records));
            }
            Family::V6 => {
                let records = groups.iter().filter_map(|group| match group {
                    IpAddr::V6(group) => Some((kind, *group, Vec::new())),
                    IpAddr::V4(_) => None,
                });
                let records: Vec<_> = records.collect();
                self.send_mld(id, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16), &igmp::mld2_report(&records));
            }
        }
    }

    fn on_link(id: InterfaceId, group: IpAddr) -> Decision {
        let (kind, via_gateway, source) = (RouteKind::Multicast, false, None);
        Decision { kind, interface: id, next: group, via_gateway, source, mtu: 0, advertised_mss: 0, initial_window: 0 }
    }

    fn send_igmp(&mut self, id: InterfaceId, dst: Ipv4Addr, message: &[u8]) {
        let Some(interface) = self.interfaces.get(id).filter(|interface| interface.up) else { return };
        let src = interface.source_for(dst.into(), self.now_ns).unwrap_or(Family::V4.unspecified());
        let options = SendOptions {
            ttl: Some(1),
            tos: 0xc0,
            options: ipv4::Options::new(&ipv4::ROUTER_ALERT).unwrap_or(ipv4::Options::NONE),
            multicast_loop: false,
            interface: id,
            ..SendOptions::default()
        };
        let _ = self.ip_send(&Core::on_link(id, dst.into()), src, dst.into(), protocol::IGMP, &options, Packet::copy_of(message));
    }

    fn send_mld(&mut self, id: InterfaceId, dst: Ipv6Addr, message: &[u8]) {
        let Some(interface) = self.interfaces.get(id).filter(|interface| interface.up && !interface.settings.disable_ipv6) else { return };
        // Before the link-local address is in use the unspecified one stands in (RFC 3810 5.2.13).
        let src = interface.link_local().unwrap_or(Ipv6Addr::UNSPECIFIED);
        let mut packet = Packet::copy_of(message);
        let sum = crate::wire::checksum::Sum::pseudo(src.into(), dst.into(), protocol::ICMPV6, message.len()).with(message);
        crate::wire::put(packet.bytes_mut(), 2, &sum.finish().to_be_bytes());
        let options = SendOptions { ttl: Some(1), multicast_loop: false, router_alert: true, interface: id, ..SendOptions::default() };
        self.statistics.icmp[1].out_messages += 1;
        let _ = self.ip_send(&Core::on_link(id, dst.into()), src.into(), dst.into(), protocol::ICMPV6, &options, packet);
    }

    /// An IGMP message for this machine.
    pub(crate) fn igmp_input(&mut self, packet: &Packet, info: &IpInfo) {
        let message = packet.bytes().get(info.transport..).unwrap_or_default();
        if message.len() < 8 || checksum(message) != 0 {
            return;
        }
        match message[0] {
            igmp::IGMP_QUERY => {
                if let Some(query) = igmp::parse_igmp_query(message) {
                    self.group_query(info.interface, query);
                }
            }
            igmp::IGMP1_REPORT | igmp::IGMP2_REPORT => self.group_reported(info.interface, message.get(4..8)),
            _ => {}
        }
    }

    pub(crate) fn mld_query(&mut self, info: &IpInfo, message: &[u8]) {
        let from_link = crate::prefix::is_link_local(info.src);
        if info.ttl == 1
            && from_link
            && let Some(query) = igmp::parse_mld_query(message)
        {
            self.group_query(info.interface, query);
        }
    }

    fn group_query(&mut self, id: InterfaceId, query: igmp::Query) {
        let now_ns = self.now_ns;
        let family = Family::of(query.group);
        let mut due = Vec::new();
        let window_ns = u64::from(query.max_response_ms).max(1) * MILLISECOND;
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        if query.version < Version::Three {
            interface.querier[family.index()] = (query.version, now_ns + OLD_QUERIER_NS);
        }
        for (group, membership) in &mut interface.groups {
            let asked = Family::of(*group) == family && (query.group.is_unspecified() || query.group == *group) && is_reported(*group);
            if asked {
                let at_ns = now_ns + self.random.below(window_ns);
                if membership.report_at_ns.is_none_or(|there| there > at_ns) {
                    membership.report_at_ns = Some(at_ns);
                    membership.changed = false;
                }
                due.extend(membership.report_at_ns);
            }
        }
        due.into_iter().for_each(|at_ns| self.keep_house_at(at_ns));
    }

    /// Another member on the link reported the group in version 1 or 2: our own answer is not needed.
    pub(crate) fn group_reported(&mut self, id: InterfaceId, group: Option<&[u8]>) {
        let group = match group.map(<[u8]>::len) {
            Some(4) => group.and_then(|bytes| array::<4>(bytes, 0)).map(IpAddr::from),
            Some(16) => group.and_then(|bytes| array::<16>(bytes, 0)).map(IpAddr::from),
            _ => None,
        };
        let Some(group) = group else { return };
        if self.querier(id, Family::of(group)) == Version::Three {
            return;
        }
        if let Some(membership) = self.interfaces.get_mut(id).and_then(|interface| interface.groups.get_mut(&group)) {
            (membership.report_at_ns, membership.last_reporter) = (None, false);
        }
    }

    /// Sends the reports that are due; answers when the next one is.
    pub(crate) fn poll_groups(&mut self) -> u64 {
        let mut next = u64::MAX;
        let mut reports = Vec::new();
        let now_ns = self.now_ns;
        for interface in self.interfaces.iter_mut().filter(|interface| interface.up) {
            for (group, membership) in &mut interface.groups {
                let Some(at_ns) = membership.report_at_ns else { continue };
                if at_ns > now_ns {
                    next = next.min(at_ns);
                    continue;
                }
                reports.push((interface.id, *group, membership.changed));
                membership.last_reporter = true;
                membership.repeats = membership.repeats.saturating_sub(1);
                membership.report_at_ns = (membership.repeats > 0).then(|| now_ns + 1 + self.random.below(SECOND));
                next = next.min(membership.report_at_ns.unwrap_or(u64::MAX));
            }
        }
        for (id, group, changed) in reports {
            self.send_report(id, group, changed);
        }
        next
    }
}
