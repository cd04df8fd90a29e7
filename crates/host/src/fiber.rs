//! Contexts: stacks of the kernel's own, and the switch between them.

use abi::Errno;
use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// A fiber's stack: enough for the deepest path through the kernel, with a guard page below.
const STACK_LEN: usize = 256 << 10;
const GUARD_LEN: usize = 4096;
/// Stacks kept for reuse.
const SPARE_MAX: usize = 64;

global_asm!(
    r#"
.pushsection .text.umlaut_switch,"ax",@progbits
.globl umlaut_switch, umlaut_fiber_start
# rdi: where to leave this stack's pointer; rsi: the stack to go on with. Callee-saved registers travel on the stacks.
umlaut_switch:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
# The first thing on a new stack: r12 is the context. A null return address ends backtraces.
umlaut_fiber_start:
    mov %r12, %rdi
    push $0
    jmp *%r13
.popsection
"#,
    options(att_syntax)
);

unsafe extern "C" {
    fn umlaut_switch(save: *mut usize, to: usize);
    fn umlaut_fiber_start();
}

struct Stack {
    base: *mut u8,
}

// SAFETY: a stack is memory; it is used by one context at a time.
unsafe impl Send for Stack {}

static SPARE: Mutex<Vec<Stack>> = Mutex::new(Vec::new());

impl Stack {
    fn new() -> Result<Stack, Errno> {
        if let Some(stack) = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(stack);
        }
        // SAFETY: a new mapping where the host wants it; the guard page is inside it.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let base = libc::mmap(std::ptr::null_mut(), STACK_LEN + GUARD_LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if base == libc::MAP_FAILED {
                return Err(Errno::ENOMEM);
            }
            if libc::mprotect(base, GUARD_LEN, libc::PROT_NONE) != 0 {
                libc::munmap(base, STACK_LEN + GUARD_LEN);
                return Err(Errno::ENOMEM);
            }
            Ok(Stack { base: base.cast() })
        }
    }

    fn top(&self) -> *mut u8 {
        self.base.wrapping_add(STACK_LEN + GUARD_LEN)
    }

    fn recycle(self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(self);
            return;
        }
        drop(spare);
        // SAFETY: the mapping is this stack's own, and nobody is on it.
        unsafe { libc::munmap(self.base.cast(), STACK_LEN + GUARD_LEN) };
    }
}

/// A context of [`sync::sched`].
pub struct Context {
    inside: UnsafeCell<usize>,
    outside: UnsafeCell<usize>,
    entry: UnsafeCell<Option<Box<dyn FnOnce() + Send>>>,
    stack: Option<Stack>,
}

// SAFETY: the scheduler lets one virtual CPU at a time enter a context, with its queue's lock between any two; the cells are touched only by
// whoever has entered it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// A context that will run `entry` on a stack of its own.
    pub fn new(entry: Box<dyn FnOnce() + Send>) -> Result<Box<Context>, Errno> {
        let stack = Stack::new()?;
        let top = stack.top();
        let context = Box::new(Context {
            inside: UnsafeCell::new(0),
            outside: UnsafeCell::new(0),
            entry: UnsafeCell::new(Some(entry)),
            stack: Some(stack),
        });
        // What `umlaut_switch` pops: r15, r14, r13, r12, rbp, rbx, return address. At `umlaut_fiber_start` the stack is 16-byte aligned, so that
        // the function it jumps to finds it as after a call.
        let frame: [usize; 7] = [
            0,
            0,
            begin as extern "C" fn(*const Context) -> ! as usize,
            &raw const *context as usize,
            0,
            0,
            umlaut_fiber_start as unsafe extern "C" fn() as usize,
        ];
        let sp = (top as usize - 64) & !15;
        let sp = sp - size_of_val(&frame);
        // SAFETY: below the top of a stack that nobody uses yet; the context's cells are still ours alone.
        unsafe {
            std::ptr::copy_nonoverlapping(frame.as_ptr(), sp as *mut usize, frame.len());
            *context.inside.get() = sp;
        }
        Ok(context)
    }
}

extern "C" fn begin(context: *const Context) -> ! {
    // SAFETY: the context outlives everything that runs on its stack; `entry` is touched here only.
    let context = unsafe { &*context };
    // SAFETY: as above.
    if let Some(entry) = unsafe { (*context.entry.get()).take() } {
        // The kernel's own entry deals with panics; one that gets here has been reported and ends this fiber only.
        let _ = catch_unwind(AssertUnwindSafe(entry));
    }
    loop {
        sync::sched::Context::leave(context);
    }
}

impl sync::sched::Context for Context {
    fn enter(&self) {
        // SAFETY: `inside` is a stack that left by `umlaut_switch` or the first frame made by `new`; one virtual CPU at a time is here.
        unsafe { umlaut_switch(self.outside.get(), *self.inside.get()) }
    }
    fn leave(&self) {
        // SAFETY: we are on the context's stack, so somebody entered and `outside` is theirs.
        unsafe { umlaut_switch(self.inside.get(), *self.outside.get()) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(stack) = self.stack.take() {
            stack.recycle();
        }
    }
}
