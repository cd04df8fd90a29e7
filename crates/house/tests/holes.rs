//! The attacks find holes: a build with one planted in its wall fails under them, the same build without one does not.
#![forbid(unsafe_code)]

use house::guests::{Kernel, compile_all, run_in_machines};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What `wall_jumps.c` tries to make on the host, and one machine at a time.
static BEYOND_THE_WALL: Mutex<&str> = Mutex::new("/tmp/umlaut-wall-was-passed");

/// `linux` that can be built with holes, which only builds with debug assertions can.
fn program() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(house::repository()).args([
            "build",
            "--quiet",
            "-p",
            "umlaut",
            "--features",
            "holes",
            "--bin",
            "linux-with-holes",
        ]);
        assert!(cargo.status().unwrap().success(), "the build with holes");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| house::repository().join("target"), PathBuf::from);
        target.join("debug/linux-with-holes")
    })
}

/// Ends processes that a hole let out of their machine: they are nobody's children and may spin for ever.
fn end_what_escaped() {
    let own = std::fs::canonicalize(program()).unwrap();
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in numbers {
        let runs_it = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own);
        let is_orphan = std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("\nPPid:\t1\n"));
        if runs_it && is_orphan {
            // It may have ended by itself.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

/// What attacks notice of the wall when it has this hole, by one hand-over.
fn noticed(hole: &str, hand_over: &str, attacks: &[&str]) -> Vec<String> {
    let beyond = BEYOND_THE_WALL.lock().unwrap_or_else(PoisonError::into_inner);
    // What an earlier run left; it may not be there.
    let _ = std::fs::remove_file(*beyond);
    let place = house::repository().join("target/guest-tests/holes");
    std::fs::create_dir_all(&place).unwrap();
    let wanted: Vec<String> = attacks.iter().map(|name| (*name).to_owned()).collect();
    let mut programs = compile_all(&place, &wanted).unwrap();
    if hole != "none" {
        // Calls that reach the host leave programs that hang; what they show they show early.
        programs.iter_mut().for_each(|program| program.limit = Duration::from_secs(12));
    }
    let kernel = Kernel {
        program: program().clone(),
        environment: vec![("UMLAUT_HOLE", hole.to_owned()), ("UMLAUT_HANDOVER", hand_over.to_owned())],
    };
    let mut found = Vec::new();
    match run_in_machines(&kernel, &programs.iter().collect::<Vec<_>>(), &place) {
        Ok(outcomes) => {
            for (name, outcome) in outcomes {
                found.extend(outcome.failure.map(|failure| format!("{name}: {failure}")));
                found.extend(
                    outcome.cases.into_iter().filter(|(_, result)| result.starts_with("FAIL")).map(|(case, _)| format!("{name}/{case}")),
                );
            }
        }
        Err(sentence) => found.push(sentence),
    }
    end_what_escaped();
    if Path::new(*beyond).exists() {
        found.push(format!("{} was made on the host", *beyond));
        std::fs::remove_file(*beyond).unwrap();
    }
    println!("{hole} by {hand_over}: {found:#?}");
    found
}

/// Both at full scale.
fn hand_overs() -> &'static [&'static str] {
    if house::scale() == "full" { &["notify", "trap"] } else { &["notify"] }
}

#[test]
fn a_wall_without_holes_holds_in_the_build_that_can_have_them() {
    for hand_over in hand_overs() {
        assert_eq!(noticed("none", hand_over, &["wall_jumps", "wall_recycle"]), Vec::<String>::new());
    }
}

#[test]
fn a_filter_by_address_range_is_noticed() {
    for hand_over in hand_overs() {
        let found = noticed("address-range", hand_over, &["wall_jumps"]);
        assert!(found.iter().any(|what| what.contains("was made on the host")), "{found:?}");
    }
}

#[test]
fn an_open_set_up_address_is_noticed() {
    for hand_over in hand_overs() {
        let found = noticed("set-up-address", hand_over, &["wall_jumps"]);
        assert!(found.iter().any(|what| what.contains("was made on the host")), "{found:?}");
    }
}

#[test]
fn a_command_page_that_can_be_written_is_noticed() {
    for hand_over in hand_overs() {
        let found = noticed("command-page", hand_over, &["wall_jumps"]);
        assert!(found.iter().any(|what| what.contains("nothing_in_the_stubs_range_can_be_changed")), "{found:?}");
    }
}

#[test]
fn a_stub_that_is_used_again_with_a_live_thread_is_noticed() {
    for hand_over in hand_overs() {
        assert_ne!(noticed("live-thread", hand_over, &["wall_recycle"]), Vec::<String>::new());
    }
}
