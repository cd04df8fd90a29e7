//! Hosts that lack what seccomp notifications need: the hand-over by signals, how it is chosen, and what the user is told.
#![forbid(unsafe_code)]

use house::machine::{Output, Programs, output};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

fn programs() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| Programs::build().unwrap())
}

fn umlaut(arguments: &[&str], hand_over: &str) -> Output {
    output(Command::new(&programs().umlaut).args(arguments).env("UMLAUT_HANDOVER", hand_over), b"", Duration::from_secs(60))
}

fn run(script: &str, hand_over: &str) -> Output {
    umlaut(&["run", "--mem", "256M", "--", "sh", "-c", script], hand_over)
}

#[test]
fn commands_run_by_signals_as_they_do_by_notifications() {
    for hand_over in ["", "notify", "trap"] {
        let said = run("grep ^hand_over /proc/umlaut/counters; exit 7", hand_over);
        let wanted = if hand_over.is_empty() { "hand_over " } else { hand_over };
        assert!(said.stdout.contains(wanted), "{hand_over:?}: {said:?}");
        assert_eq!(said.status, Some(7), "{hand_over:?}: {said:?}");
    }
    let said = run("kill -SEGV $$", "trap");
    assert_eq!(said.status, Some(139), "{said:?}");
    let said = run("i=0; while [ $i -lt 100 ]; do i=$((i+1)); /bin/true | cat; done; echo $i; seq 100000 | sort -rn | tail -1", "trap");
    assert_eq!(said.stdout, "100\n1\n", "{said:?}");
}

#[test]
fn the_doctor_tells_which_hand_over_a_machine_would_take() {
    let said = umlaut(&["doctor"], "trap");
    assert!(said.stdout.contains("limited  hand-over: by signals"), "{said:?}");
    assert_eq!(said.status, Some(0));
    let said = umlaut(&["doctor"], "");
    assert!(said.stdout.contains("hand-over: "), "{said:?}");
}

#[test]
fn a_hand_over_that_does_not_exist_is_refused_in_a_sentence() {
    for arguments in [&["run", "--", "true"][..], &["doctor"]] {
        let said = umlaut(arguments, "telepathy");
        assert_ne!(said.status, Some(0));
        assert!(format!("{}{}", said.stdout, said.stderr).contains("say notify or trap"), "{said:?}");
    }
}
