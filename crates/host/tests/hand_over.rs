//! The hand-over and the wall, with pieces of machine code as guests and the test as their kernel.

use abi::arch::Regs;
use host::memory::MemoryFile;
use host::stub::Stubs;
use platform::{Access, Exit, GuestSpace, GuestThread, MapCommand, Platform, Protection};
use std::sync::{Arc, OnceLock};

const PAGE: u64 = 4096;
const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x50_0000;
const RAM_LEN: usize = 64 << 20;

struct Machine {
    stubs: &'static Stubs,
    ram: &'static ram::Ram,
}

fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let (ready, machine) = std::sync::mpsc::channel();
        // Stubs die with the thread that started them: one that outlives every test.
        std::thread::spawn(move || {
            let memory = MemoryFile::new(RAM_LEN).unwrap();
            let stubs = Stubs::start(memory.descriptor(), RAM_LEN as u64, 100, host::checks::wished_hand_over().unwrap()).unwrap();
            let ram = ram::Ram::new(memory.into_backing());
            stubs.warm_up().unwrap();
            ready.send(Machine { stubs, ram }).unwrap();
            loop {
                std::thread::park();
            }
        });
        machine.recv().unwrap()
    })
}

/// A guest whose code page holds `code` and that has a page of stack.
struct Guest {
    space: Arc<dyn GuestSpace>,
    _frames: Vec<ram::Frame>,
}

impl Guest {
    fn new(code: &[u8]) -> Guest {
        let m = machine();
        let space = m.stubs.new_space().unwrap();
        let (text, stack) = (m.ram.alloc_zeroed().unwrap(), m.ram.alloc_zeroed().unwrap());
        text.write(0, code);
        let map = |addr, frame: &ram::Frame, protection| MapCommand::Map { addr, len: PAGE, pfn: frame.pfn(), protection };
        space
            .map(&[map(CODE, &text, Protection::READ | Protection::EXEC), map(STACK, &stack, Protection::READ | Protection::WRITE)])
            .unwrap();
        Guest { space, _frames: vec![text, stack] }
    }

    fn thread(&self) -> Box<dyn GuestThread> {
        let mut thread = self.space.new_thread().unwrap();
        let regs = Regs { rip: CODE, rsp: STACK + PAGE, flags: Regs::USER_FLAGS, selectors: Regs::USER_SELECTORS, ..Regs::default() };
        thread.set_regs(&regs).unwrap();
        thread
    }
}

/// `mov eax, nr; syscall` over and over.
fn call_loop(number: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05, 0xeb, 0xf7]);
    code
}

#[test]
fn an_ordinary_call_arrives_with_its_number_and_its_answer_goes_back() {
    // mov eax,39; mov edi,7; syscall; mov edi,eax; mov eax,186; syscall
    let guest = Guest::new(&[0xb8, 39, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 5, 0x89, 0xc7, 0xb8, 186, 0, 0, 0, 0x0f, 5]);
    let mut thread = guest.thread();
    match thread.resume() {
        Exit::Syscall { number: 39, args, ip } => assert_eq!((args[0], ip), (7, CODE + 12)),
        other => panic!("{other:?}"),
    }
    thread.set_result(1234);
    match thread.resume() {
        Exit::Syscall { number: 186, args, .. } => assert_eq!(args[0], 1234),
        other => panic!("{other:?}"),
    }
}

#[test]
fn registers_can_be_had_in_the_middle_of_an_ordinary_call() {
    let guest = Guest::new(&call_loop(39));
    let mut thread = guest.thread();
    assert!(matches!(thread.resume(), Exit::Syscall { number: 39, .. }));
    let mut regs = thread.regs().unwrap();
    assert_eq!((regs.rax, regs.rip, regs.rsp), (39, CODE + 7, STACK + PAGE));
    regs.rip = CODE;
    regs.rbx = 99;
    regs.fs_base = 0x1234_5000;
    thread.set_regs(&regs).unwrap();
    assert!(matches!(thread.resume(), Exit::Syscall { number: 39, .. }));
    let regs = thread.regs().unwrap();
    assert_eq!((regs.rbx, regs.fs_base), (99, 0x1234_5000));
}

#[test]
fn a_fault_tells_address_and_access_and_goes_on_when_mapped() {
    // mov [0x600000], eax ; mov eax, 39 ; syscall
    let guest = Guest::new(&[0x89, 0x04, 0x25, 0, 0, 0x60, 0, 0xb8, 39, 0, 0, 0, 0x0f, 5]);
    let mut thread = guest.thread();
    assert_eq!(thread.resume(), Exit::Fault { addr: 0x60_0000, access: Access::Write });
    let frame = machine().ram.alloc_zeroed().unwrap();
    let protection = Protection::READ | Protection::WRITE;
    guest.space.map(&[MapCommand::Map { addr: 0x60_0000, len: PAGE, pfn: frame.pfn(), protection }]).unwrap();
    assert!(matches!(thread.resume(), Exit::Syscall { number: 39, .. }));
}

#[test]
fn what_a_linux_without_it_would_not_know_is_a_segmentation_fault() {
    for (what, code) in
        [("int 0x80", vec![0xcd, 0x80]), ("hlt", vec![0xf4]), ("vsyscall", vec![0x48, 0xc7, 0xc0, 0, 0, 0x60, 0xff, 0xff, 0xd0])]
    {
        let guest = Guest::new(&code);
        let got = guest.thread().resume();
        let segv = matches!(got, Exit::Exception { signal: abi::Signal::SIGSEGV, .. } | Exit::Fault { .. });
        assert!(segv, "{what}: {got:?}");
    }
    // x32 and -1 are calls that no table has.
    for number in [0x4000_0027u32, u32::MAX] {
        let guest = Guest::new(&call_loop(number));
        match guest.thread().resume() {
            Exit::Syscall { number: got, .. } => assert_eq!(got, u64::from(number)),
            other => panic!("{number:#x}: {other:?}"),
        }
    }
}

#[test]
fn a_stub_is_used_again_without_a_trace_of_the_last_guest() {
    for round in 0..50u64 {
        let guest = Guest::new(&call_loop(60));
        let mut thread = guest.thread();
        let regs = thread.regs().unwrap();
        assert_eq!((regs.rbx, regs.r12, regs.fs_base), (0, 0, 0), "round {round}");
        let mut dirty = regs;
        (dirty.rbx, dirty.r12, dirty.fs_base) = (round + 1, !round, 0x7000);
        thread.set_regs(&dirty).unwrap();
        assert!(matches!(thread.resume(), Exit::Syscall { number: 60, .. }));
    }
}

#[test]
fn a_stub_killed_from_outside_is_a_dead_guest_and_nothing_else() {
    let guest = Guest::new(&[0xeb, 0xfe]);
    let mut thread = guest.thread();
    let space = guest.space.clone();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        space.kill();
    });
    assert_eq!(thread.resume(), Exit::Gone);
    killer.join().unwrap();
    assert!(guest.space.map(&[MapCommand::Unmap { addr: CODE, len: PAGE }]).is_err());
}

#[test]
fn the_vdso_answers_clock_questions_without_a_call() {
    let Some(call) = Some(machine().stubs.host_clock_gettime()).filter(|at| *at != 0) else { return };
    // mov edi,1; mov rsi,STACK; mov rax,VDSO+0x800; call rax; mov eax,39; syscall
    let mut code = vec![0xbf, 1, 0, 0, 0, 0x48, 0xbe];
    code.extend(STACK.to_le_bytes());
    code.extend([0x48, 0xb8]);
    code.extend((0x70_0000u64 + 0x800).to_le_bytes());
    code.extend([0xff, 0xd0, 0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
    let guest = Guest::new(&code);
    let m = machine();
    let (image, data) = (m.ram.alloc_zeroed().unwrap(), m.ram.alloc_zeroed().unwrap());
    image.write(0, &host::vdso::image());
    data.write(0, &host::vdso::Data { trap: false, offsets_ns: [0, -1_500_000_000, 0] }.bytes(call));
    let map = |addr, frame: &ram::Frame, protection| MapCommand::Map { addr, len: PAGE, pfn: frame.pfn(), protection };
    guest.space.map(&[map(0x70_0000, &image, Protection::READ | Protection::EXEC), map(0x70_1000, &data, Protection::READ)]).unwrap();
    let mut thread = guest.thread();
    assert!(matches!(thread.resume(), Exit::Syscall { number: 39, .. }));
    let mut time = [0u8; 16];
    guest._frames[1].read(0, &mut time);
    let seconds = u64::from_ne_bytes(time[..8].try_into().unwrap());
    let nanos = u64::from_ne_bytes(time[8..].try_into().unwrap());
    assert!(nanos < 1_000_000_000);
    let uptime: f64 = std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    let difference = uptime - (seconds as f64 + nanos as f64 / 1e9);
    assert!((1.4..3.0).contains(&difference), "{difference}");
}

#[test]
#[ignore = "a measurement, not a test: run it by name"]
fn how_long_a_call_takes() {
    let guest = Guest::new(&call_loop(39));
    let mut thread = guest.thread();
    let count = 200_000;
    let begun = std::time::Instant::now();
    for _ in 0..count {
        assert!(matches!(thread.resume(), Exit::Syscall { .. }));
        thread.set_result(1);
    }
    println!("null call {} ns", begun.elapsed().as_nanos() / count);
}
