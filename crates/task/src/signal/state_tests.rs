//! Conversations with the signal state of one process.

use super::*;
use abi::siginfo::code;

const LEADER: i32 = 10;
const OTHER: i32 = 11;

fn process() -> Signals {
    let mut signals = Signals::new(Arc::new(SpinLock::new(Actions::default())), LEADER, ThreadSignals::default(), false);
    assert!(signals.add_thread(OTHER, ThreadSignals::default()));
    signals
}

fn catch(signals: &mut Signals, signal: Signal, flags: SaFlags) -> SigAction {
    let action = SigAction { handler: 0x4000, flags: flags.bits(), restorer: 0, mask: SigSet::of(Signal::SIGUSR2).0 };
    signals.set_action(signal, action);
    action
}

fn kill(signals: &mut Signals, signal: Signal) -> Sent {
    signals.send(To::Process, SigInfo::user(signal, 1, 0), None)
}

#[test]
fn a_process_signal_goes_to_the_first_thread_that_does_not_block_it() {
    let mut signals = process();
    catch(&mut signals, Signal::SIGUSR1, SaFlags::empty());
    signals.set_mask(LEADER, SigSet::of(Signal::SIGUSR1));
    assert_eq!(kill(&mut signals, Signal::SIGUSR1).wake, [OTHER]);
    assert_eq!(signals.next(LEADER), Delivery::None);
    assert!(matches!(signals.next(OTHER), Delivery::Handler { .. }));
}

#[test]
fn a_thread_that_blocks_a_shared_signal_hands_it_to_another() {
    let mut signals = process();
    catch(&mut signals, Signal::SIGUSR1, SaFlags::empty());
    assert_eq!(kill(&mut signals, Signal::SIGUSR1).wake, [LEADER]);
    let (_, wake) = signals.set_mask(LEADER, SigSet::of(Signal::SIGUSR1));
    assert_eq!(wake, [OTHER]);
    assert!(signals.is_interrupted(OTHER) && !signals.is_interrupted(LEADER));
}

#[test]
fn a_handler_blocks_its_mask_and_its_own_signal_unless_it_asks_not_to() {
    let (usr1, usr2) = (SigSet::of(Signal::SIGUSR1), SigSet::of(Signal::SIGUSR2));
    for (flags, expected) in [(SaFlags::empty(), usr1.union(usr2)), (SaFlags::NODEFER, usr2)] {
        let mut signals = process();
        let action = catch(&mut signals, Signal::SIGUSR1, flags);
        kill(&mut signals, Signal::SIGUSR1);
        let Delivery::Handler { info, saved_mask, .. } = signals.next(LEADER) else { panic!("no handler") };
        assert_eq!((info, saved_mask), (SigInfo::user(Signal::SIGUSR1, 1, 0), SigSet::EMPTY));
        signals.enter_handler(LEADER, Signal::SIGUSR1, &action);
        assert_eq!(signals.thread(LEADER).unwrap().blocked, expected);
    }
}

#[test]
fn sa_resethand_catches_once() {
    let mut signals = process();
    catch(&mut signals, Signal::SIGUSR1, SaFlags::RESETHAND);
    kill(&mut signals, Signal::SIGUSR1);
    assert!(matches!(signals.next(LEADER), Delivery::Handler { .. }));
    kill(&mut signals, Signal::SIGUSR1);
    assert_eq!(signals.next(LEADER), Delivery::Die { status: WaitStatus::Killed(Signal::SIGUSR1, false), core: false });
}

#[test]
fn the_mask_that_a_call_replaced_goes_into_the_frame_or_comes_back() {
    let mut signals = process();
    catch(&mut signals, Signal::SIGUSR1, SaFlags::empty());
    let before = SigSet::of(Signal::SIGUSR1);
    signals.set_mask(LEADER, before);
    signals.set_mask(OTHER, before);
    kill(&mut signals, Signal::SIGUSR1);
    // sigsuspend(empty set)
    signals.set_mask(LEADER, SigSet::EMPTY);
    signals.thread_mut(LEADER).unwrap().saved_mask = Some(before);
    assert!(matches!(signals.next(LEADER), Delivery::Handler { saved_mask, .. } if saved_mask == before));
    signals.set_mask(LEADER, SigSet::EMPTY);
    signals.thread_mut(LEADER).unwrap().saved_mask = Some(before);
    assert_eq!(signals.next(LEADER), Delivery::None);
    signals.restore_saved_mask(LEADER);
    assert_eq!(signals.thread(LEADER).unwrap().blocked, before);
}

#[test]
fn ignored_signals_leave_no_trace_unless_they_are_blocked() {
    let mut signals = process();
    assert!(!kill(&mut signals, Signal::SIGCHLD).queued);
    signals.set_mask(LEADER, SigSet::of(Signal::SIGCHLD));
    assert!(kill(&mut signals, Signal::SIGCHLD).queued);
    signals.set_action(Signal::SIGCHLD, SigAction { handler: SIG_IGN, ..SigAction::default() });
    assert!(signals.pending(LEADER).is_empty());
}

#[test]
fn sigkill_ends_everything_and_nothing_comes_after_it() {
    let mut signals = process();
    signals.set_mask(LEADER, SigSet::ALL);
    let sent = signals.send(To::Thread(OTHER), SigInfo::user(Signal::SIGKILL, 1, 0), None);
    assert_eq!(sent.wake, [LEADER, OTHER]);
    let death = Delivery::Die { status: WaitStatus::Killed(Signal::SIGKILL, false), core: false };
    assert_eq!((signals.next(LEADER), signals.next(OTHER)), (death, death));
    assert!(!kill(&mut signals, Signal::SIGTERM).queued);
    assert!(!signals.add_thread(12, ThreadSignals::default()));
}

#[test]
fn init_is_not_touched_by_signals_that_it_did_not_ask_for_but_dies_of_its_own_faults() {
    let mut signals = Signals::new(Arc::default(), 1, ThreadSignals::default(), true);
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGSTOP] {
        assert!(!kill(&mut signals, signal).queued, "{signal:?}");
    }
    signals.force(1, SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, 0));
    assert_eq!(signals.next(1), Delivery::Die { status: WaitStatus::Killed(Signal::SIGSEGV, false), core: true });
}

#[test]
fn a_fault_that_is_blocked_or_ignored_kills() {
    for ignored in [false, true] {
        let mut signals = process();
        if ignored {
            signals.set_action(Signal::SIGSEGV, SigAction { handler: SIG_IGN, ..SigAction::default() });
        } else {
            catch(&mut signals, Signal::SIGSEGV, SaFlags::empty());
            signals.set_mask(LEADER, SigSet::of(Signal::SIGSEGV));
        }
        signals.force(LEADER, SigInfo::fault(Signal::SIGSEGV, code::SEGV_ACCERR, 0x1234));
        assert!(matches!(signals.next(LEADER), Delivery::Die { core: true, .. }));
    }
}

#[test]
fn a_stop_is_complete_when_the_last_thread_parks_and_sigcont_ends_it() {
    let mut signals = process();
    assert_eq!(kill(&mut signals, Signal::SIGTSTP).wake, [LEADER]);
    assert_eq!(signals.next(LEADER), Delivery::StopSignal(Signal::SIGTSTP));
    assert_eq!(signals.begin_stop(Signal::SIGTSTP), [LEADER, OTHER]);
    assert_eq!(signals.next(LEADER), Delivery::Park { complete: None });
    assert_eq!(signals.next(OTHER), Delivery::Park { complete: Some(Signal::SIGTSTP) });
    assert!(signals.must_park(LEADER) && signals.must_park(OTHER));
    assert_eq!(signals.stopped_by(), Some(Signal::SIGTSTP));
    let sent = kill(&mut signals, Signal::SIGCONT);
    assert!(sent.continued && sent.wake == [LEADER, OTHER]);
    assert!(!signals.must_park(LEADER));
    assert_eq!(signals.next(LEADER), Delivery::None);
}

#[test]
fn sigcont_between_the_taking_of_a_stop_signal_and_the_stop_wins() {
    let mut signals = process();
    kill(&mut signals, Signal::SIGTSTP);
    assert_eq!(signals.next(LEADER), Delivery::StopSignal(Signal::SIGTSTP));
    kill(&mut signals, Signal::SIGCONT);
    assert!(signals.begin_stop(Signal::SIGTSTP).is_empty());
    assert_eq!(signals.next(LEADER), Delivery::None);
}

#[test]
fn stop_signals_and_sigcont_are_never_pending_together() {
    let mut signals = process();
    for tid in [LEADER, OTHER] {
        signals.set_mask(tid, SigSet::ALL);
    }
    catch(&mut signals, Signal::SIGCONT, SaFlags::empty());
    kill(&mut signals, Signal::SIGTSTP);
    kill(&mut signals, Signal::SIGTTIN);
    kill(&mut signals, Signal::SIGCONT);
    assert_eq!(signals.pending(LEADER), SigSet::of(Signal::SIGCONT));
    kill(&mut signals, Signal::SIGTTOU);
    assert_eq!(signals.pending(LEADER), SigSet::of(Signal::SIGTTOU));
}

#[test]
fn a_stopped_process_dies_of_sigkill() {
    let mut signals = process();
    kill(&mut signals, Signal::SIGSTOP);
    assert!(matches!(signals.next(LEADER), Delivery::StopSignal(_)));
    signals.begin_stop(Signal::SIGSTOP);
    signals.next(LEADER);
    signals.next(OTHER);
    kill(&mut signals, Signal::SIGKILL);
    assert!(!signals.must_park(LEADER) && !signals.must_park(OTHER));
    assert!(matches!(signals.next(OTHER), Delivery::Die { .. }));
}

#[test]
fn a_thread_that_leaves_a_stopping_process_completes_the_stop() {
    let mut signals = process();
    kill(&mut signals, Signal::SIGSTOP);
    signals.next(LEADER);
    signals.begin_stop(Signal::SIGSTOP);
    assert_eq!(signals.next(LEADER), Delivery::Park { complete: None });
    assert_eq!(signals.remove_thread(OTHER).1, Some(Signal::SIGSTOP));
}

#[test]
fn exec_kills_the_other_threads_and_only_them() {
    let mut signals = process();
    assert_eq!(signals.kill_others(OTHER), [LEADER]);
    assert_eq!(signals.next(LEADER), Delivery::ExitThread);
    assert_eq!(signals.next(OTHER), Delivery::None);
    signals.remove_thread(LEADER);
    signals.rename_thread(OTHER, LEADER);
    assert!(signals.thread(LEADER).is_some() && signals.threads() == 1);
}

#[test]
fn sigtimedwait_takes_a_blocked_signal_without_running_its_handler() {
    let mut signals = process();
    let set = SigSet::of(Signal::SIGUSR1);
    for tid in [LEADER, OTHER] {
        signals.set_mask(tid, set);
    }
    signals.open_for_wait(OTHER, set);
    assert_eq!(kill(&mut signals, Signal::SIGUSR1).wake, [OTHER]);
    assert_eq!(signals.dequeue(OTHER, set), Some(SigInfo::user(Signal::SIGUSR1, 1, 0)));
    signals.close_wait(OTHER);
    assert_eq!(signals.thread(OTHER).unwrap().blocked, set);
    assert_eq!(signals.next(OTHER), Delivery::None);
}

#[test]
fn only_death_interrupts_a_killable_wait() {
    let mut signals = process();
    signals.thread_mut(LEADER).unwrap().killable_only = true;
    kill(&mut signals, Signal::SIGTERM);
    assert!(!signals.is_interrupted(LEADER));
    kill(&mut signals, Signal::SIGKILL);
    assert!(signals.is_interrupted(LEADER));
}

#[test]
fn a_timer_queues_one_signal_at_a_time() {
    let mut signals = process();
    signals.set_mask(LEADER, SigSet::ALL);
    signals.set_mask(OTHER, SigSet::ALL);
    let info =
        SigInfo { signal: Signal::SIGALRM, errno: 0, code: code::SI_TIMER, fields: abi::SigFields::Timer { id: 3, overrun: 0, value: 9 } };
    assert!(signals.send_timer(To::Process, info, 3).is_some_and(|s| s.queued));
    assert!(signals.send_timer(To::Process, info, 3).is_none());
    signals.forget_timer(3);
    assert!(signals.pending(LEADER).is_empty());
}

#[test]
fn the_alternate_stack_counts_as_in_use_by_the_stack_pointer() {
    let stack = AltStack { sp: 0x1000, flags: 0, padding: 0, size: 0x1000 };
    let mut thread = ThreadSignals { alt_stack: stack, ..ThreadSignals::default() };
    for (sp, flags) in [(0x1000, 0), (0x1001, SS_ONSTACK), (0x2000, SS_ONSTACK), (0x2001, 0)] {
        assert_eq!(thread.alt_stack_flags(sp), flags, "{sp:#x}");
    }
    thread.alt_stack.flags = SS_AUTODISARM;
    assert_eq!(thread.alt_stack_flags(0x1800), 0);
    assert_eq!(ThreadSignals::default().alt_stack_flags(0x1800), SS_DISABLE);
}
