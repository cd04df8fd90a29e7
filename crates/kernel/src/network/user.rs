//! `ethN=user`: the interface behind which a fiber translates frames to sockets of the host (`usernet`).
//!
//! What it is not: the translation, or its policy. The fiber never waits in the host; a thread there rings when a socket has become ready.

use abi::Errno;
use drivers::net::mac::{self, MacChoice};
use platform::HostNetwork;
use sock::Network;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sync::sched::Scheduler;
use sync::{Events, Observer, WaitQueue};
use usernet::{Config, Engine, Mac, Port, PortQueue};

/// What ends the fiber's sleep.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    queue: WaitQueue,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.queue.wake_all();
        }
    }

    fn wait(&self, deadline_ns: Option<u64>) {
        // That time is up is as good a reason as any.
        let _ = self.queue.wait_deadline(deadline_ns, || self.rung.load(Ordering::Acquire).then_some(()));
    }
}

impl Observer for Bell {
    fn notify(&self, _: Events) {
        self.ring();
    }
}

/// What the options of an interface say, and what the host says of itself. A sentence when an option makes no sense.
pub fn configure(options: &[(String, String)]) -> Result<Config, String> {
    let mut config = Config { flows_max: host::network::sockets_max(), search: host::network::search_domains(), ..Config::default() };
    for (name, value) in options {
        config.set(name, value, &host::network::resolve)?;
    }
    Ok(config)
}

/// Makes the interface's link, and the fiber behind it. A sentence when that can't be.
pub fn make(scheduler: &'static Scheduler, network: &'static Network, config: Config, mac: MacChoice) -> Result<Port, String> {
    let mac = match mac {
        MacChoice::Given(mac) => Mac::Given(mac),
        MacChoice::FromAddress => Mac::FromAddress(mac::random(&host::checks::entropy)),
    };
    let failed = |what: &str, errno: Errno| format!("user: {what} ({errno})");
    let host = Arc::new(host::network::Network::new().map_err(|errno| failed("the host's sockets can't be watched", errno))?);
    let bell = Arc::new(Bell::default());
    host.observe(bell.clone());
    let ringer = bell.clone();
    let (port, queue) = usernet::port(mac, config.mtu, Box::new(move || ringer.ring()));
    let mut key = [0; 16];
    host::checks::entropy(&mut key);
    let (first, second) = key.split_at(8);
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let mut engine = Engine::new(config, host.clone(), [word(first), word(second)]);
    engine.publish().map_err(|(at, errno)| failed(&format!("the host's port {at} can't be published"), errno))?;
    scheduler
        .spawn(move || run(engine, &queue, &*host, &bell, network))
        .map_err(|errno| failed("the translation could not be started", errno))?;
    Ok(port)
}

/// Moves frames until the interface is gone.
fn run(mut engine: Engine, queue: &PortQueue, host: &dyn HostNetwork, bell: &Bell, network: &'static Network) {
    let (mut from_stack, mut to_stack) = (VecDeque::new(), VecDeque::new());
    loop {
        bell.rung.store(false, Ordering::Release);
        engine.set_now(sync::monotonic_ns());
        let was_full = queue.take(&mut from_stack);
        let mut moved = !from_stack.is_empty();
        from_stack.drain(..).for_each(|packet| engine.input(packet));
        let next = engine.serve(sync::monotonic_ns());
        to_stack.extend(std::iter::from_fn(|| engine.output()).take(queue.room()));
        if was_full || !to_stack.is_empty() {
            moved = true;
            queue.give(&mut to_stack);
            network.with(|_| ());
        }
        queue.tell(engine.statistics());
        if queue.is_over() {
            return;
        }
        if moved {
            sync::yield_now();
        } else {
            host.arm();
            bell.wait(next);
        }
    }
}
