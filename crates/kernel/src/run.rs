//! The run loop: one fiber for each guest thread.
//!
//! Everything a guest thread causes happens here, on its own fiber, in straight-line code: it runs until it needs the kernel, is served, and runs
//! again. A bug of ours that panics ends the guest's process, not the machine (an oops).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use task::{Current, Next, Process};

/// Runs the thread until it exits. Called on the thread's own fiber.
pub fn run(mut current: Current) {
    current.begin();
    let process = current.process().clone();
    let name = current.task().comm_text();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        serve(&mut current);
        current
    }));
    match outcome {
        Ok(current) => current.exit(),
        Err(cause) => oops(&process, &name, &*cause),
    }
}

fn serve(current: &mut Current) {
    use platform::Exit;
    while current.before_guest() == Next::Resume {
        // The machine was stopped meanwhile; what has happened since comes first.
        if sync::gate() {
            continue;
        }
        match current.resume() {
            Exit::Syscall { number, args, ip } => {
                current.note_call(number, ip);
                if current.is_traced() {
                    serve_traced(current, number, args, ip);
                } else {
                    let judged = current.judge_call(number, args, ip);
                    let outcome = judged.unwrap_or_else(|| syscall::call(current, number, args));
                    current.finish_call(number, outcome);
                }
            }
            Exit::Fault { addr, access } => current.handle_fault(addr, access),
            Exit::Exception { signal, code, addr } => current.handle_exception(signal, code, addr),
            Exit::Kicked => {}
            Exit::Gone => current.handle_gone(),
        }
        if sync::sched::should_yield() {
            sync::yield_now();
        }
    }
}

/// A call of a thread that somebody traces, with a stop before and after.
fn serve_traced(current: &mut Current, number: u64, args: [u64; 6], ip: u64) {
    if let Some((number, args)) = current.enter_traced_call(number, args) {
        let judged = current.judge_call(number, args, ip);
        let outcome = judged.unwrap_or_else(|| syscall::call(current, number, args));
        current.finish_call(number, outcome);
    }
    current.leave_traced_call();
}

/// A panic unwound to here: the thread's own state is gone with its fiber, the rest of its process is killed.
fn oops(process: &Arc<Process>, name: &str, cause: &(dyn std::any::Any + Send)) {
    let text = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    process.system.hooks.log(&format!("Oops: {text}"));
    process.system.hooks.log(&format!("Oops: the kernel side of {name}[{}] ends here", process.pid()));
    process.kill_forcibly();
    if process.pid() == 1 {
        process.system.hooks.init_died(abi::WaitStatus::Killed(abi::Signal::SIGSEGV, false));
    }
}
