//! Rules (ip-rule(8)) as rtnetlink messages: `struct fib_rule_hdr` and attributes.

use super::message::{Payload, attribute, u32_at};
use super::route::{family_number, from_octets, octets};
use abi::Errno;
use abi::raw::net as raw;
use net::route::{RouteKind, Rule, RuleAction};
use net::{Family, InterfaceId, Prefix, Stack};

const HEADER: usize = 12;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const ACTION_TABLE: u8 = 1;
const ACTION_BLACKHOLE: u8 = 6;
const ACTION_UNREACHABLE: u8 = 7;
const ACTION_PROHIBIT: u8 = 8;
const INVERT: u32 = 2;

/// A rule as its message's payload.
pub(super) fn rule(stack: &Stack, rule: &Rule) -> Vec<u8> {
    let (action, table) = match rule.action {
        RuleAction::Table(table) => (ACTION_TABLE, table),
        RuleAction::Refuse(RouteKind::Blackhole) => (ACTION_BLACKHOLE, 0),
        RuleAction::Refuse(RouteKind::Prohibit) => (ACTION_PROHIBIT, 0),
        RuleAction::Refuse(_) => (ACTION_UNREACHABLE, 0),
    };
    let len = |prefix: Option<Prefix>| prefix.map_or(0, |prefix| prefix.len);
    let short = u8::try_from(table).unwrap_or(252);
    let mut header = vec![family_number(rule.family), len(rule.dst), len(rule.src), rule.tos.unwrap_or(0), short, 0, 0, action];
    header.extend_from_slice(&(if rule.invert { INVERT } else { 0 }).to_ne_bytes());
    let mut payload = Payload(header);
    payload.word(FRA_TABLE, table);
    if rule.priority > 0 {
        payload.word(FRA_PRIORITY, rule.priority);
    }
    for (kind, prefix) in [(FRA_DST, rule.dst), (FRA_SRC, rule.src)] {
        if let Some(prefix) = prefix {
            payload.attribute(kind, &octets(prefix.address));
        }
    }
    for (kind, id) in [(FRA_IIFNAME, rule.input), (FRA_OIFNAME, rule.output)] {
        if let Some(interface) = id.and_then(|id| stack.interfaces.get(id)) {
            payload.string(kind, &interface.name);
        }
    }
    if let Some((mark, mask)) = rule.mark {
        payload.word(FRA_FWMARK, mark);
        payload.word(FRA_FWMASK, mask);
    }
    payload.0
}

fn parse(stack: &Stack, payload: &[u8]) -> Result<(Rule, bool), Errno> {
    let [family, dst_len, src_len, tos, short, _, _, action, ..] = payload else { return Err(Errno::EINVAL) };
    let family = match u32::from(*family) {
        raw::AF_INET => Family::V4,
        raw::AF_INET6 => Family::V6,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let word = |kind: u16| attribute(payload, HEADER, kind).map(|bytes| u32_at(bytes, 0));
    let table = word(FRA_TABLE).unwrap_or_else(|| u32::from(*short));
    let action = match *action {
        ACTION_TABLE | 0 => RuleAction::Table(table),
        ACTION_BLACKHOLE => RuleAction::Refuse(RouteKind::Blackhole),
        ACTION_UNREACHABLE => RuleAction::Refuse(RouteKind::Unreachable),
        ACTION_PROHIBIT => RuleAction::Refuse(RouteKind::Prohibit),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let prefix = |kind: u16, len: u8| match attribute(payload, HEADER, kind) {
        None if len == 0 => Ok(None),
        None => Err(Errno::EINVAL),
        Some(bytes) => {
            let address = from_octets(bytes).filter(|address| Family::of(*address) == family && len <= family.bits());
            Ok(Some(Prefix { address: address.ok_or(Errno::EINVAL)?, len }.network()))
        }
    };
    let interface = |kind: u16| -> Result<Option<InterfaceId>, Errno> {
        let Some(name) = attribute(payload, HEADER, kind) else { return Ok(None) };
        let name = name.split(|b| *b == 0).next().and_then(|name| std::str::from_utf8(name).ok()).ok_or(Errno::EINVAL)?;
        Ok(Some(stack.interfaces.by_name(name).ok_or(Errno::ENODEV)?.id))
    };
    let priority = word(FRA_PRIORITY);
    let mut rule = Rule::new(priority.unwrap_or(0), family, action);
    (rule.dst, rule.src) = (prefix(FRA_DST, *dst_len)?, prefix(FRA_SRC, *src_len)?);
    (rule.input, rule.output) = (interface(FRA_IIFNAME)?, interface(FRA_OIFNAME)?);
    rule.mark = word(FRA_FWMARK).map(|mark| (mark, word(FRA_FWMASK).unwrap_or(u32::MAX)));
    rule.tos = (*tos != 0).then_some(*tos);
    rule.invert = u32_at(payload, 8) & INVERT != 0;
    Ok((rule, priority.is_some()))
}

/// RTM_NEWRULE and RTM_DELRULE.
pub(super) fn change(stack: &mut Stack, payload: &[u8], add: bool) -> Result<(), Errno> {
    let (mut rule, has_priority) = parse(stack, payload)?;
    if !add {
        let table_given = !matches!(rule.action, RuleAction::Table(0));
        return stack
            .routes
            .remove_rule(|there| {
                there.family == rule.family
                    && (!has_priority || there.priority == rule.priority)
                    && (!table_given || there.action == rule.action)
                    && (rule.dst.is_none() || there.dst == rule.dst)
                    && (rule.src.is_none() || there.src == rule.src)
                    && (rule.mark.is_none() || there.mark == rule.mark)
            })
            .map(drop);
    }
    if !has_priority {
        // Just before the first one that is not the local table's.
        let first = stack.routes.rules().iter().filter(|there| there.family == rule.family && there.priority > 0).map(|r| r.priority).min();
        rule.priority = first.map_or(32_765, |first| first.saturating_sub(1));
    }
    if stack.routes.rules().contains(&rule) {
        return Err(Errno::EEXIST);
    }
    stack.routes.add_rule(rule);
    Ok(())
}
