//! A family's history, and its numbers.

use super::*;

/// init 1 - shell 2 (leads its session) - jobs 3 and 4.
fn shell() -> Tree {
    let mut tree = Tree::new(1000);
    tree.add_init(1);
    tree.last = 1;
    for (pid, parent) in [(2, 1), (3, 2), (4, 2)] {
        assert_eq!(tree.next_pid(), Ok(pid));
        tree.add_child(pid, parent, parent, Some(Signal::SIGCHLD)).unwrap();
    }
    tree.setsid(2).unwrap();
    for job in [3, 4] {
        // They were born before setsid; give them the shell's session as fork would have.
        tree.leave_group(job, 1);
        tree.leave_session(1);
        tree.groups.entry(2).or_default().push(job);
        *tree.sessions.entry(2).or_default() += 1;
        let node = tree.get_mut(job).unwrap();
        (node.group, node.session) = (2, 2);
    }
    tree
}

fn dead(code: u8) -> Death {
    Death { status: WaitStatus::Exited(code), uid: 7, usage: Rusage::default() }
}

const PLAIN: WaitOptions = WaitOptions::EXITED;

#[test]
fn a_zombie_is_waited_for_once_and_its_number_is_used_again_only_after_that() {
    let mut tree = shell();
    assert_eq!(tree.find_waitable(2, 2, WaitFor::Any, PLAIN), Ok(None));
    tree.die(3, dead(5));
    tree.remove_thread(3);
    let waited = tree.find_waitable(2, 2, WaitFor::Process(3), PLAIN).unwrap().unwrap();
    assert_eq!((waited.pid, waited.status, waited.uid), (3, WaitStatus::Exited(5), 7));
    tree.last = 2;
    assert_eq!(tree.next_pid(), Ok(5));
    tree.reap(3);
    tree.last = 2;
    assert_eq!(tree.next_pid(), Ok(3));
    assert_eq!(tree.find_waitable(2, 2, WaitFor::Process(3), PLAIN), Err(Errno::ECHILD));
}

#[test]
fn a_number_that_a_group_still_has_is_not_given_out() {
    let mut tree = shell();
    tree.setpgid(2, 3, 3).unwrap();
    tree.setpgid(2, 4, 3).unwrap();
    tree.die(3, dead(0));
    tree.reap(3);
    tree.last = 2;
    assert_eq!(tree.next_pid(), Ok(5));
    tree.die(4, dead(0));
    tree.reap(4);
    tree.last = 2;
    assert_eq!(tree.next_pid(), Ok(3));
}

#[test]
fn numbers_wrap_round_above_the_reserved_ones_and_run_out() {
    let mut tree = Tree::new(303);
    tree.add_init(1);
    tree.last = 301;
    for expected in [302, 300, 301] {
        let pid = tree.next_pid().unwrap();
        assert_eq!(pid, expected);
        tree.add_child(pid, 1, 1, None).unwrap();
    }
    assert_eq!(tree.next_pid(), Err(Errno::EAGAIN));
}

#[test]
fn children_of_the_dead_go_to_the_nearest_subreaper_or_init() {
    let mut tree = shell();
    tree.add_child(5, 3, 3, Some(Signal::SIGUSR1)).unwrap();
    tree.die(5, dead(1));
    tree.get_mut(2).unwrap().subreaper = true;
    let aftermath = tree.die(3, dead(0));
    assert_eq!(aftermath.reparented, [(5, 2, true)]);
    assert_eq!(tree.get(5).unwrap().exit_signal, Some(Signal::SIGCHLD));
    assert!(tree.find_waitable(2, 2, WaitFor::Process(5), PLAIN).unwrap().is_some());
    let aftermath = tree.die(2, dead(0));
    assert_eq!(aftermath.reparented.iter().map(|r| (r.0, r.1)).collect::<Vec<_>>(), [(3, 1), (4, 1), (5, 1)]);
    assert!(aftermath.session_leader);
}

#[test]
fn a_stopped_job_whose_shell_dies_is_orphaned() {
    let mut tree = shell();
    tree.setpgid(2, 3, 3).unwrap();
    assert!(!tree.is_orphaned(3, None));
    tree.note_stopped(3, Signal::SIGTSTP, 0);
    tree.setpgid(2, 4, 4).unwrap();
    // Job 4 runs: nobody needs to wake it.
    assert_eq!(tree.die(2, dead(0)).orphaned, [3]);
    assert!(tree.is_orphaned(3, None) && tree.is_orphaned(4, None));
}

#[test]
fn the_member_whose_parent_kept_the_group_in_touch_orphans_it_by_dying() {
    let mut tree = shell();
    tree.setpgid(2, 3, 3).unwrap();
    tree.add_child(5, 3, 3, Some(Signal::SIGCHLD)).unwrap();
    tree.note_stopped(5, Signal::SIGTSTP, 0);
    assert_eq!(tree.die(3, dead(0)).orphaned, [3]);
}

#[test]
fn setpgid_obeys_sessions_exec_and_leaders() {
    let mut tree = shell();
    for (caller, pid, group, result) in [
        (2, 3, 3, Ok(())),
        (2, 4, 3, Ok(())),
        (2, 3, -1, Err(Errno::EINVAL)),
        (2, 99, 0, Err(Errno::ESRCH)),
        (3, 2, 0, Err(Errno::ESRCH)),
        (2, 0, 3, Err(Errno::EPERM)),
        (2, 3, 77, Err(Errno::EPERM)),
        (2, 3, 1, Err(Errno::EPERM)),
        (3, 0, 0, Ok(())),
    ] {
        assert_eq!(tree.setpgid(caller, pid, group), result, "setpgid({pid}, {group}) by {caller}");
    }
    tree.get_mut(4).unwrap().executed = true;
    assert_eq!(tree.setpgid(2, 4, 4), Err(Errno::EACCES));
    assert_eq!(tree.setpgid(4, 0, 0), Ok(()));
}

#[test]
fn setsid_makes_a_leader_of_everything_unless_the_caller_leads_a_group() {
    let mut tree = shell();
    assert_eq!(tree.setsid(2), Err(Errno::EPERM));
    assert_eq!(tree.setsid(3), Ok(3));
    assert_eq!((tree.get(3).unwrap().group, tree.get(3).unwrap().session), (3, 3));
    tree.setpgid(4, 0, 0).unwrap();
    assert_eq!(tree.setsid(4), Err(Errno::EPERM));
}

#[test]
fn stops_and_continuations_are_told_once_to_those_who_ask() {
    let mut tree = shell();
    tree.note_stopped(3, Signal::SIGTTIN, 9);
    assert_eq!(tree.find_waitable(2, 2, WaitFor::Any, PLAIN), Ok(None));
    let both = PLAIN | WaitOptions::STOPPED | WaitOptions::CONTINUED;
    for _ in 0..2 {
        let peek = tree.find_waitable(2, 2, WaitFor::Any, both | WaitOptions::NOWAIT).unwrap().unwrap();
        assert_eq!((peek.status, peek.uid), (WaitStatus::Stopped(Signal::SIGTTIN), 9));
    }
    assert!(tree.find_waitable(2, 2, WaitFor::Any, both).unwrap().is_some());
    assert_eq!(tree.find_waitable(2, 2, WaitFor::Any, both), Ok(None));
    tree.note_continued(3, 9);
    assert_eq!(tree.find_waitable(2, 2, WaitFor::Any, both).unwrap().unwrap().status, WaitStatus::Continued);
    assert_eq!(tree.find_waitable(2, 2, WaitFor::Any, both), Ok(None));
}

#[test]
fn clone_children_and_those_of_other_threads_are_told_apart() {
    let mut tree = shell();
    tree.add_child(5, 2, 20, None).unwrap();
    tree.die(5, dead(0));
    let five = WaitFor::Process(5);
    for (tid, options, found) in [
        (2, PLAIN, false),
        (2, PLAIN | WaitOptions::CLONE, true),
        (2, PLAIN | WaitOptions::ALL, true),
        (2, PLAIN | WaitOptions::ALL | WaitOptions::NOTHREAD, false),
        (20, PLAIN | WaitOptions::ALL | WaitOptions::NOTHREAD, true),
    ] {
        assert_eq!(tree.find_waitable(2, tid, five, options).is_ok(), found, "{tid} {options:?}");
    }
}
