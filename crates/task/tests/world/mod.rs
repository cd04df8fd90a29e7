//! A machine without a host, for tests: init on the test's own thread, children on threads of their own.
#![allow(dead_code, reason = "each test uses a part of it")]

use abi::{Errno, WaitFor, WaitOptions, WaitStatus};
use fs::tmpfs::{Options, Tmpfs};
use mm::AddressSpace;
use platform::fake::FakePlatform;
use ram::Ram;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use sync::Fiber;
use task::system::Power;
use task::{CloneRequest, Current, Hooks, Limits, Next, Shared, System};
use vfs::{FdTable, FsContext, MountFlags, MountNamespace, OpenFlags, OpenHow, PathAt, SliceSource, Vfs};

pub type Program = Box<dyn FnOnce(&mut Current) + Send>;

/// Programs for the children that are made next, in order.
#[derive(Default, Clone)]
pub struct Programs(Arc<Mutex<VecDeque<Program>>>);

struct TestHooks {
    programs: Programs,
    fail_start: Arc<Mutex<bool>>,
}

impl Hooks for TestHooks {
    fn start(&self, mut current: Current) -> Result<(), Errno> {
        if *self.fail_start.lock().unwrap() {
            return Err(Errno::EAGAIN);
        }
        let program = self.programs.0.lock().unwrap().pop_front();
        thread::spawn(move || {
            current.begin();
            if let Some(program) = program {
                program(&mut current);
            }
            finish(current);
        });
        Ok(())
    }
    fn kick(&self, _: &Fiber) {}
    fn entropy(&self, bytes: &mut [u8]) {
        bytes.fill(0x5a);
    }
    fn log(&self, _: &str) {}
    fn init_died(&self, _: WaitStatus) {}
    fn power(&self, _: Power) {}
}

/// What the run loop does at the end of a thread.
fn finish(mut current: Current) {
    while current.before_guest() == Next::Resume {
        current.begin_exit(0);
    }
    current.exit();
}

pub struct World {
    pub init: Current,
    pub programs: Programs,
    pub fail_start: Arc<Mutex<bool>>,
}

impl World {
    pub fn new() -> World {
        let ram = Ram::for_tests(32 << 20);
        let vfs = Vfs::new(ram);
        let root = vfs.new_mount(Tmpfs::new(ram, "tmpfs", Options::default()).unwrap(), b"none", MountFlags::empty()).unwrap();
        let programs = Programs::default();
        let fail_start = Arc::new(Mutex::new(false));
        let hooks = TestHooks { programs: programs.clone(), fail_start: fail_start.clone() };
        let platform = Arc::new(FakePlatform);
        let system = System::new(ram, vfs, platform.clone(), Box::new(hooks), Limits { threads_max: 20, pid_max: 1000 });
        let space = platform::Platform::new_space(&*platform).unwrap();
        let shared = Shared {
            memory: AddressSpace::new(ram, space, mm::Limits::default()).unwrap(),
            files: FdTable::new(ram),
            fs: FsContext::new(root.root_path()),
            namespace: MountNamespace::new(root),
        };
        let mut init = system.first_process(shared, b"init").unwrap();
        init.begin();
        World { init, programs, fail_start }
    }
    pub fn will_run(&self, program: impl FnOnce(&mut Current) + Send + 'static) {
        self.programs.0.lock().unwrap().push_back(Box::new(program));
    }
    pub fn fork(&mut self, program: impl FnOnce(&mut Current) + Send + 'static) -> i32 {
        self.will_run(program);
        self.init.clone_task(&CloneRequest::fork()).unwrap()
    }
    pub fn wait(&self, which: WaitFor, options: WaitOptions) -> (i32, WaitStatus) {
        let waited = self.init.wait(which, options).unwrap().unwrap();
        (waited.pid, waited.status)
    }
    pub fn file(&self, path: &[u8], mode: u32, contents: &[u8]) {
        let caller = self.init.caller();
        let how = OpenHow::new(OpenFlags::CREAT | OpenFlags::RDWR, mode);
        let file = caller.open(PathAt::cwd(path), how).unwrap();
        file.write(&mut SliceSource::new(contents)).unwrap();
    }
}

/// Waits for something that another thread does.
pub fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "it never came true");
        thread::sleep(Duration::from_millis(1));
    }
}
