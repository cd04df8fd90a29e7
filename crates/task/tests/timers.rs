//! Timers of processes, against the clock on the wall.

mod world;

use abi::siginfo::code;
use abi::{ClockId, Errno, SigFields, SigInfo, SigSet, Signal};
use task::Current;
use task::timers::{IntervalTimer, Notify, TimerSpec};
use world::{World, until};

const MS: u64 = 1_000_000;

fn block_everything(current: &mut Current) {
    current.set_signal_mask(SigSet::ALL);
}

fn take(current: &Current) -> Option<SigInfo> {
    let taken = current.process().signals().dequeue(current.tid(), SigSet::ALL);
    taken.map(|info| current.process().timers.deliver(info))
}

fn wait_for(current: &Current) -> SigInfo {
    until(|| !current.process().signals().pending(current.tid()).is_empty());
    take(current).unwrap()
}

fn once(ms: u64) -> TimerSpec {
    TimerSpec { value_ns: ms * MS, interval_ns: 0 }
}

fn signal(signal: Signal) -> impl FnOnce(i32) -> Notify {
    move |id| Notify::Signal { signal, value: id as u64 + 100, thread: None }
}

#[test]
fn an_alarm_comes_once_and_can_be_taken_back() {
    let mut world = World::new();
    block_everything(&mut world.init);
    let timers = &world.init.process().timers;
    assert_eq!(timers.set_interval(IntervalTimer::Real, once(10_000)), TimerSpec::default());
    let left = timers.set_interval(IntervalTimer::Real, once(5));
    assert!(left.value_ns > 9_000 * MS && left.value_ns <= 10_000 * MS);
    assert_eq!(wait_for(&world.init), SigInfo::kernel(Signal::SIGALRM));
    assert_eq!(timers.interval_left(IntervalTimer::Real), TimerSpec::default());
    timers.set_interval(IntervalTimer::Real, once(5));
    timers.set_interval(IntervalTimer::Real, TimerSpec::default());
    std::thread::sleep(std::time::Duration::from_millis(15));
    assert_eq!(take(&world.init), None);
}

#[test]
fn an_interval_timer_comes_again_and_again() {
    let mut world = World::new();
    block_everything(&mut world.init);
    let spec = TimerSpec { value_ns: MS, interval_ns: 2 * MS };
    world.init.process().timers.set_interval(IntervalTimer::Real, spec);
    for _ in 0..3 {
        assert_eq!(wait_for(&world.init).signal, Signal::SIGALRM);
    }
    world.init.process().timers.clear();
}

#[test]
fn a_posix_timer_queues_one_signal_and_counts_the_rest_when_it_is_taken() {
    let mut world = World::new();
    block_everything(&mut world.init);
    let timers = &world.init.process().timers;
    let id = timers.create(ClockId::Monotonic, world.init.task(), signal(Signal::SIGUSR1)).unwrap();
    timers.set(id, TimerSpec { value_ns: MS, interval_ns: MS }, false).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let info = wait_for(&world.init);
    let SigFields::Timer { id: told, overrun, value } = info.fields else { panic!("{info:?}") };
    assert_eq!((told, value, info.code, info.signal), (id, id as u64 + 100, code::SI_TIMER, Signal::SIGUSR1));
    assert!((10..2000).contains(&overrun), "{overrun}");
    assert_eq!(timers.overrun(id), Ok(overrun));
    assert!(timers.left(id).unwrap().value_ns <= MS);
    assert_eq!(timers.delete(id), Ok(()));
    assert_eq!(timers.delete(id), Err(Errno::EINVAL));
    assert_eq!(take(&world.init), None);
}

#[test]
fn an_absolute_timer_of_the_past_comes_at_once_and_a_silent_one_only_tells_its_time() {
    let mut world = World::new();
    block_everything(&mut world.init);
    let timers = &world.init.process().timers;
    for clock in [ClockId::Monotonic, ClockId::Realtime] {
        let id = timers.create(clock, world.init.task(), signal(Signal::SIGUSR2)).unwrap();
        timers.set(id, TimerSpec { value_ns: 1, interval_ns: 0 }, true).unwrap();
        assert_eq!(wait_for(&world.init).signal, Signal::SIGUSR2);
        assert_eq!(timers.left(id), Ok(TimerSpec::default()));
    }
    let silent = timers.create(ClockId::Monotonic, world.init.task(), |_| Notify::Nothing).unwrap();
    timers.set(silent, TimerSpec { value_ns: MS, interval_ns: 1000 * MS }, false).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    let left = timers.left(silent).unwrap().value_ns;
    assert!(left > 900 * MS && left < 1000 * MS);
    assert_eq!(take(&world.init), None);
}

#[test]
fn a_timer_whose_signal_is_ignored_runs_on_unheard() {
    let mut world = World::new();
    let ignore = abi::SigAction { handler: abi::siginfo::SIG_IGN, ..abi::SigAction::default() };
    world.init.process().signals().set_action(Signal::SIGUSR1, ignore);
    let process = world.init.process().clone();
    let timers = &process.timers;
    let id = timers.create(ClockId::Monotonic, world.init.task(), signal(Signal::SIGUSR1)).unwrap();
    timers.set(id, TimerSpec { value_ns: MS, interval_ns: MS }, false).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    block_everything(&mut world.init);
    assert_eq!(wait_for(&world.init).signal, Signal::SIGUSR1);
    timers.clear();
}

#[test]
fn timers_are_bounded_by_the_limit_on_pending_signals_and_go_with_exec() {
    let world = World::new();
    let process = world.init.process();
    process.set_rlimit(abi::Resource::Sigpending, abi::Rlimit::both(3));
    let create = || process.timers.create(ClockId::Monotonic, world.init.task(), signal(Signal::SIGUSR1));
    assert_eq!([create(), create(), create()], [Ok(0), Ok(1), Ok(2)]);
    assert_eq!(create(), Err(Errno::EAGAIN));
    process.timers.clear_for_exec();
    assert!(create().is_ok());
    process.timers.clear();
    assert!(process.timers.create(ClockId::MonotonicRaw, world.init.task(), |_| Notify::Nothing).is_err());
}

#[test]
fn setting_the_clock_moves_timers_that_wait_for_a_time_on_it() {
    let mut world = World::new();
    block_everything(&mut world.init);
    let system = world.init.system();
    let timers = &world.init.process().timers;
    let id = timers.create(ClockId::Realtime, world.init.task(), signal(Signal::SIGUSR1)).unwrap();
    let hour = 3600 * 1000 * MS;
    let at = system.realtime_ns() + hour;
    timers.set(id, TimerSpec { value_ns: at, interval_ns: 0 }, true).unwrap();
    system.set_realtime_ns(at + MS);
    assert_eq!(wait_for(&world.init).signal, Signal::SIGUSR1);
    system.set_realtime_ns(at - hour);
}

#[test]
fn a_pending_timer_signal_that_becomes_ignored_does_not_stop_the_timer() {
    let mut world = World::new();
    block_everything(&mut world.init);
    let process = world.init.process().clone();
    let id = process.timers.create(ClockId::Monotonic, world.init.task(), signal(Signal::SIGUSR1)).unwrap();
    process.timers.set(id, TimerSpec { value_ns: MS, interval_ns: MS }, false).unwrap();
    until(|| !process.signals().pending(1).is_empty());
    let ignore = abi::SigAction { handler: abi::siginfo::SIG_IGN, ..abi::SigAction::default() };
    process.signals().set_action(Signal::SIGUSR1, ignore);
    process.timers.signals_were_flushed();
    assert_eq!(wait_for(&world.init).signal, Signal::SIGUSR1);
    process.timers.clear();
}
