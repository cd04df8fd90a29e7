//! What rtnetlink tells its groups: links, addresses, routes and neighbours that came, changed or went.
//!
//! The stack says which of them changed, not how; this remembers what was told last, and tells the difference.
//!
//! Always true: no lock of the stack is held while listeners are told, and each hears changes in their order.

use super::Hub;
use super::hub::Sender;
use super::message;
use super::route::{self, *};
use crate::network::Network;
use net::{Event, Family, Stack};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

const GROUP_LINK: u32 = 1;
const GROUP_NEIGHBOUR: u32 = 3;
const GROUP_ADDRESS: [u32; 2] = [5, 9];
const GROUP_ROUTE: [u32; 2] = [7, 11];

/// What was told last. Payloads as in messages.
#[derive(Default)]
struct Known {
    links: BTreeMap<u32, Vec<u8>>,
    /// By interface, address, and what of it may change.
    addresses: BTreeMap<(u32, Vec<u8>), (Family, Vec<u8>)>,
    routes: BTreeMap<Vec<u8>, Family>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Announcer(Mutex<Known>);

/// A message: its group, type and payload.
type Told = (u32, u16, Vec<u8>);

impl Announcer {
    /// Tells of events.
    pub fn announce(&self, network: &Network, hub: &Hub, events: &[Event]) {
        // Held until all is told, so that two changes do not overtake each other.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = network.look(|stack| differences(&mut known, stack, events));
        for (group, kind, payload) in told {
            hub.multicast(super::ROUTE, &message::event(kind, &payload), Sender::kernel(group));
        }
    }
}

fn differences(known: &mut Known, stack: &Stack, events: &[Event]) -> Vec<Told> {
    let mut told = Vec::new();
    let lost = events.contains(&Event::Overrun);
    let changed: BTreeSet<u32> = events.iter().filter_map(|event| if let Event::Link(id) = event { Some(id.0) } else { None }).collect();
    for interface in stack.interfaces.iter().filter(|interface| lost || changed.contains(&interface.id.0)) {
        let payload = link(interface);
        told.push((GROUP_LINK, RTM_NEWLINK, payload.clone()));
        known.links.insert(interface.id.0, payload);
    }
    if lost || events.iter().any(|event| matches!(event, Event::Addresses(_))) {
        addresses(known, stack, &mut told);
    }
    if lost || events.contains(&Event::Routes) {
        routes(known, stack, &mut told);
    }
    for event in events {
        match event {
            Event::LinkRemoved(id) => {
                if let Some(payload) = known.links.remove(&id.0) {
                    told.push((GROUP_LINK, RTM_DELLINK, payload));
                }
            }
            Event::Neighbour(id, address) => {
                if let Some(neighbour) = stack.neighbours.get((*id, *address)) {
                    told.push((GROUP_NEIGHBOUR, RTM_NEWNEIGH, route::neighbour(*id, *address, neighbour)));
                }
            }
            _ => {}
        }
    }
    told
}

fn addresses(known: &mut Known, stack: &Stack, told: &mut Vec<Told>) {
    let mut now = BTreeMap::new();
    for interface in stack.interfaces.iter() {
        for own in &interface.addresses {
            let family = Family::of(own.prefix.address);
            let payload = address(interface, own);
            // Header and flags say whether it is the same one; how long it lives changes all the time.
            let mut key = payload.get(..8).unwrap_or_default().to_vec();
            key.extend_from_slice(&octets(own.prefix.address));
            now.insert((interface.id.0, key), (family, payload));
        }
    }
    for (key, (family, payload)) in known.addresses.iter().filter(|(key, _)| !now.contains_key(key)) {
        // One that only changed its flags is told of as new alone.
        let same = |other: &&(u32, Vec<u8>)| other.0 == key.0 && other.1.get(8..) == key.1.get(8..) && other.1.get(1) == key.1.get(1);
        if !now.keys().any(|other| same(&other)) {
            told.push((GROUP_ADDRESS[family.index()], RTM_DELADDR, payload.clone()));
        }
    }
    for (_, (family, payload)) in now.iter().filter(|(key, _)| !known.addresses.contains_key(key)) {
        told.push((GROUP_ADDRESS[family.index()], RTM_NEWADDR, payload.clone()));
    }
    known.addresses = now;
}

fn routes(known: &mut Known, stack: &Stack, told: &mut Vec<Told>) {
    let now: BTreeMap<Vec<u8>, Family> =
        stack.routes.iter().map(|(table, found)| (route::route(table, found), Family::of(found.prefix.address))).collect();
    for (payload, family) in known.routes.iter().filter(|(payload, _)| !now.contains_key(*payload)) {
        told.push((GROUP_ROUTE[family.index()], RTM_DELROUTE, payload.clone()));
    }
    for (payload, family) in now.iter().filter(|(payload, _)| !known.routes.contains_key(*payload)) {
        told.push((GROUP_ROUTE[family.index()], RTM_NEWROUTE, payload.clone()));
    }
    known.routes = now;
}
