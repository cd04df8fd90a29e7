//! execve(2): another program in this process.
//!
//! Everything that can fail is done first, on a new address space; then, at one point, the old program is gone: the other threads end, the old
//! address space is left, descriptors and handlers are reset.
//!
//! Always true: a failure before that point leaves the caller as it was.

mod elf;
mod stack;

use crate::credentials::{self, SetId};
use crate::current::Current;
use crate::mapped::FileMapping;
use crate::task::comm_of;
use abi::arch::{Regs, TASK_SIZE};
use abi::raw::general::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW};
use abi::{Errno, PAGE_SIZE, Resource, Signal, SysResult};
use elf::{Header, Image, Kind, Segment};
use mm::{AddressSpace, Backing, Layout, MapFlags, Mapping};
use platform::{Access as PageAccess, Protection};
use stack::key;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vfs::{
    Access, Caller, CapabilitySet, Credentials, FileKind, LookupFlags, MapAccess, MapRequest, MountFlags, OpenFile, OpenFlags, Path,
    PathAt, SliceSink, UserMemory,
};

/// Bytes of a file that are looked at to find out what it is (`BINPRM_BUF_SIZE`).
const HEAD_LEN: usize = 256;
/// Scripts that may lead to one another.
const SCRIPT_DEPTH: usize = 5;
/// Where relocatable programs go, before randomisation (`ELF_ET_DYN_BASE`).
const DYN_BASE: u64 = (TASK_SIZE / 3 * 2) & !(PAGE_SIZE as u64 - 1);
/// Pages of a segment that are mapped at once when a program starts: what one batch shows costs less than one fault.
const PREMAP_PAGES: u64 = 128;
/// The same for data, whose pages are copied.
const PREMAP_DATA_PAGES: u64 = 16;
const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;

/// What a set-id program does not inherit of personality(2): `PER_CLEAR_ON_SETID`.
const PER_CLEAR_ON_SETID: i32 = 0x0040_0000 | 0x0004_0000 | 0x0020_0000 | 0x0010_0000;
/// `ADDR_NO_RANDOMIZE` of personality(2).
const ADDR_NO_RANDOMIZE: i32 = 0x0004_0000;

/// The file of a running program: nobody may write to it while this is there.
pub struct Executable(Arc<OpenFile>);

impl Executable {
    /// ETXTBSY while the file is open for writing.
    fn claim(file: Arc<OpenFile>) -> Result<Executable, Errno> {
        file.inode().attachments().begin_execute()?;
        Ok(Executable(file))
    }
    /// The file.
    #[must_use]
    pub fn file(&self) -> &Arc<OpenFile> {
        &self.0
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        self.0.inode().attachments().end_execute();
    }
}

/// A program found and opened.
struct Program {
    file: Arc<OpenFile>,
    head: Vec<u8>,
    /// As it was named: `AT_EXECFN`.
    name: Vec<u8>,
}

/// An image in memory.
struct Loaded {
    /// What is added to the addresses in the file.
    bias: u64,
    entry: u64,
    headers_addr: u64,
    code: std::ops::Range<u64>,
    data: std::ops::Range<u64>,
    /// Every segment's addresses and rights.
    segments: Vec<(std::ops::Range<u64>, Protection)>,
    end: u64,
}

impl Current {
    /// Runs another program. `base` is where a relative path starts (execveat); `flags` are `AT_*`.
    ///
    /// # Errors
    /// As execve(2). After success the thread's registers are the new program's.
    pub fn exec(&mut self, base: Option<&Path>, path: &[u8], mut argv: Vec<Vec<u8>>, envp: Vec<Vec<u8>>, flags: u32) -> SysResult<()> {
        if argv.is_empty() {
            argv.push(Vec::new());
        }
        let mut program = self.open_program(base, path, flags)?;
        let comm = comm_of(path.rsplit(|b| *b == b'/').next().unwrap_or_default());
        for depth in 0.. {
            let Some((interpreter, argument)) = script(&program.head)? else { break };
            if depth >= SCRIPT_DEPTH {
                return Err(Errno::ELOOP.into());
            }
            // The first argument gives way to the script's own path, behind the interpreter and its argument.
            let mut front = vec![interpreter.clone()];
            front.extend(argument);
            front.push(program.name.clone());
            argv.splice(0..1, front);
            program = self.open_program(None, &interpreter, 0)?;
        }
        let header = Header::parse(&program.head)?;
        let image = read_image(&program.file, &header)?;
        let interpreter = match image.interpreter {
            None => None,
            Some(place) => Some(self.open_interpreter(&program.file, place)?),
        };
        // Scripts have added to what was checked when it was copied in.
        let strings: u64 = argv.iter().chain(&envp).map(|s| s.len() as u64 + 9).sum();
        if strings > self.exec_strings_max() {
            return Err(Errno::E2BIG.into());
        }
        // A script's program knows the script's name, not its interpreter's.
        program.name = path.to_vec();
        let executable = Executable::claim(program.file.clone())?;
        let (new_credentials, secure) = self.credentials_for(&program.file)?;
        let space = self.system().platform.new_space()?;
        let limits = self.process().memory_limits(&new_credentials);
        let memory = AddressSpace::new(self.system().ram, space, limits)?;
        let sp_and_entry = self.load(&memory, &program, &header, &image, interpreter.as_ref(), &argv, &envp, (&new_credentials, secure))?;
        let thread = memory.guest_space().new_thread()?;
        let old = self.tid();
        self.become_alone()?;
        self.switch_program(memory, thread, executable, new_credentials, sp_and_entry);
        self.task().set_comm(comm);
        if secure {
            // It must not be stopped by who started it, nor looked into.
            let process = self.process();
            process.parent_death_signal.store(0, Ordering::Relaxed);
            process.personality.fetch_and(!PER_CLEAR_ON_SETID, Ordering::Relaxed);
        }
        self.process().dumpable.store(u8::from(!secure), Ordering::Relaxed);
        self.trace_exec(old);
        Ok(())
    }

    /// Bytes that arguments and environment of a new program may have together, their pointers included: a quarter of `RLIMIT_STACK`, at least
    /// 128 KiB, at most 6 MiB.
    #[must_use]
    pub fn exec_strings_max(&self) -> u64 {
        (self.process().rlimit(Resource::Stack).soft / 4).clamp(128 << 10, 6 << 20)
    }

    fn open_program(&self, base: Option<&Path>, path: &[u8], flags: u32) -> SysResult<Program> {
        let caller = self.caller();
        let mut lookup = LookupFlags::empty();
        lookup.set(LookupFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
        lookup.set(LookupFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
        let found = caller.lookup(PathAt { base, path }, lookup)?;
        if found.mount.all_flags().contains(MountFlags::NOEXEC) {
            return Err(Errno::EACCES.into());
        }
        let kind = found.inode().kind();
        if kind == FileKind::Symlink {
            return Err(Errno::ELOOP.into());
        }
        if kind != FileKind::Regular {
            return Err(Errno::EACCES.into());
        }
        caller.access(PathAt::itself(&found), Access::EXEC, true, LookupFlags::EMPTY)?;
        // Who may run a program need not be allowed to read it: the kernel reads it.
        let root = Arc::new(Credentials::root());
        let reader = Caller { credentials: &root, ..caller.clone() };
        let file = reader.open_path(found, OpenFlags::empty())?;
        let mut head = vec![0; HEAD_LEN];
        let n = read_at(&file, 0, &mut head)?;
        head.truncate(n);
        Ok(Program { file, head, name: path.to_vec() })
    }

    fn open_interpreter(&self, file: &Arc<OpenFile>, (offset, len): (u64, u64)) -> SysResult<(Program, Header, Image)> {
        let mut path = vec![0; len as usize];
        if read_at(file, offset, &mut path)? != path.len() || path.pop() != Some(0) {
            return Err(Errno::ENOEXEC.into());
        }
        let program = self.open_program(None, &path, 0)?;
        let header = Header::parse(&program.head).map_err(|_| Errno::ELIBBAD)?;
        let image = read_image(&program.file, &header).map_err(|_| Errno::ELIBBAD)?;
        Ok((program, header, image))
    }

    fn credentials_for(&self, file: &Arc<OpenFile>) -> Result<(Credentials, bool), Errno> {
        let metadata = file.path().metadata()?;
        // Whoever traces it would have what the program gets.
        let watched = self.is_traced() && !self.tracer_is_privileged();
        let honoured = !file.path().mount.all_flags().contains(MountFlags::NOSUID) && !watched;
        let set = SetId {
            uid: (honoured && metadata.mode & 0o4000 != 0).then_some(metadata.uid),
            gid: (honoured && metadata.mode & 0o2010 == 0o2010).then_some(metadata.gid),
            capabilities: honoured
                .then(|| file.inode().get_xattr(b"security.capability").ok())
                .flatten()
                .and_then(|v| file_capabilities(&v)),
        };
        Ok(credentials::exec(self.credentials(), set))
    }

    /// Fills the new address space. Gives stack pointer and entry point.
    #[allow(clippy::too_many_arguments)]
    fn load(
        &self,
        memory: &Arc<AddressSpace>,
        program: &Program,
        header: &Header,
        image: &Image,
        interpreter: Option<&(Program, Header, Image)>,
        argv: &[Vec<u8>],
        envp: &[Vec<u8>],
        (credentials, secure): (&Credentials, bool),
    ) -> Result<(u64, u64), Errno> {
        let fixed = self.process().personality.load(Ordering::Relaxed) & ADDR_NO_RANDOMIZE != 0;
        let random = |pages: u64| if fixed { 0 } else { u64::from_le_bytes(self.system().random::<8>()) % pages * PAGE_SIZE as u64 };
        let stack_limit = self.process().rlimit(Resource::Stack).soft.clamp(128 << 20, TASK_SIZE / 6 * 5);
        let stack_top = TASK_SIZE - random(1 << 22);
        let mmap_base = stack_top - stack_limit.min(64 << 30) - (1 << 20) - random(1 << 20);
        memory.set_layout(Layout { mmap_base: mmap_base & !PAGE_MASK, ..Layout::default() });

        let bias = if header.kind == Kind::Relocatable && interpreter.is_some() {
            Some(DYN_BASE - TASK_SIZE / 12 + random(1 << 20))
        } else {
            None
        };
        let main = map_image(memory, &program.file, header, image, bias)?;
        let loader = match interpreter {
            None => None,
            Some((file, header, image)) => Some(map_image(memory, &file.file, header, image, None)?),
        };
        let vdso = self.map_vdso(memory)?;
        // Room for the strings and the vectors, whatever their size.
        let bytes: usize = argv.iter().chain(envp).map(|s| s.len() + 9).sum();
        let stack_len = ((bytes as u64 + (128 << 10)) | PAGE_MASK) + 1;
        let rights = if image.executable_stack { Protection::all() } else { Protection::READ | Protection::WRITE };
        let mut mapping = Mapping::anonymous(stack_top - stack_len, stack_len, rights, MapFlags::FIXED | MapFlags::GROWSDOWN);
        mapping.name = Some("[stack]");
        memory.map(mapping)?;

        let brk = ((main.end + PAGE_MASK) & !PAGE_MASK) + random(1 << 13);
        let entry = loader.as_ref().map_or(main.entry, |l| l.entry);
        let mut aux = vec![
            (key::PAGESZ, PAGE_SIZE as u64),
            (key::CLKTCK, 100),
            (key::PHDR, main.headers_addr),
            (key::PHENT, 56),
            (key::PHNUM, u64::from(header.program_headers)),
            (key::BASE, loader.as_ref().map_or(0, |l| l.bias)),
            (key::FLAGS, 0),
            (key::ENTRY, main.entry),
            (key::UID, u64::from(credentials.uid)),
            (key::EUID, u64::from(credentials.euid)),
            (key::GID, u64::from(credentials.gid)),
            (key::EGID, u64::from(credentials.egid)),
            (key::SECURE, u64::from(secure)),
        ];
        aux.extend(vdso.map(|addr| (key::SYSINFO_EHDR, addr)));
        aux.extend(self.system().platform.processor_aux());
        let initial = stack::lay_out(stack_top, argv, envp, &program.name, self.system().random(), &aux);
        memory.write_all(initial.sp, &initial.bytes)?;
        memory.set_layout(Layout {
            mmap_base: mmap_base & !PAGE_MASK,
            code: main.code.clone(),
            data: main.data.clone(),
            start_brk: brk,
            start_stack: initial.sp,
            arg: initial.arg,
            env: initial.env,
        });
        self.premap(memory, &main, loader.as_ref(), initial.sp, stack_top, vdso)?;
        Ok((initial.sp, entry))
    }

    /// Shows the stub at once what the program touches first.
    fn premap(
        &self,
        memory: &AddressSpace,
        main: &Loaded,
        loader: Option<&Loaded>,
        sp: u64,
        stack_top: u64,
        vdso: Option<u64>,
    ) -> Result<(), Errno> {
        let page = PAGE_SIZE as u64;
        let mut ranges = vec![(sp.saturating_sub(2 * page) & !PAGE_MASK..stack_top, PageAccess::Write)];
        ranges.extend(vdso.map(|at| (at..at + page, PageAccess::Execute)));
        for image in std::iter::once(main).chain(loader) {
            for (range, rights) in &image.segments {
                let access = match rights {
                    r if r.contains(Protection::WRITE) => PageAccess::Write,
                    r if r.contains(Protection::EXEC) => PageAccess::Execute,
                    _ => PageAccess::Read,
                };
                // Small segments whole; of large ones the beginning, and what is around the entry point.
                let (most, first) =
                    if access == PageAccess::Write { (PREMAP_DATA_PAGES, range.start) } else { (PREMAP_PAGES, range.start) };
                ranges.push((first..range.end.min(first + most * page), access));
                if range.contains(&image.entry) {
                    let first = (image.entry & !PAGE_MASK).saturating_sub(8 * page).max(range.start);
                    ranges.push((first..range.end.min(first + PREMAP_PAGES * page), access));
                }
            }
        }
        ranges.retain(|(range, _)| range.start < range.end);
        match memory.premap(&ranges) {
            Ok(()) | Err(mm::FaultError::Signal { .. }) => Ok(()),
            Err(mm::FaultError::Oom) => Err(Errno::ENOMEM),
            Err(mm::FaultError::Gone) => Err(Errno::EAGAIN),
        }
    }

    fn map_vdso(&self, memory: &AddressSpace) -> Result<Option<u64>, Errno> {
        let Some(pages) = self.system().hooks.vdso() else { return Ok(None) };
        let page = PAGE_SIZE as u64;
        let len = pages.len_pages() * page;
        let backing = Backing { pages: pages.clone(), file: None, offset: 0 };
        let mut mapping = Mapping::of(backing, 0, len, Protection::READ | Protection::EXEC, MapFlags::PRIVATE);
        mapping.name = Some("[vdso]");
        Ok(Some(memory.map(mapping)?))
    }

    /// Ends all other threads of the process and takes the process's number.
    fn become_alone(&mut self) -> SysResult<()> {
        let process = self.process().clone();
        let tid = self.tid();
        let wake = process.signals().kill_others(tid);
        process.kick(&wake);
        // Another exec or exit may have been first: then this thread is the one to end.
        process.stopped.wake_all();
        let alone = || (process.signals().threads() == 1).then_some(());
        if alone().is_none() {
            self.set_killable_only(true);
            let waited = process.exited.wait_interruptible(alone);
            self.set_killable_only(false);
            waited?;
        }
        if tid != process.pid() {
            self.take_number(tid);
        }
        Ok(())
    }

    /// The last thread becomes the first: it has the process's number now.
    fn take_number(&mut self, old: i32) {
        let process = self.process().clone();
        let pid = process.pid();
        let mut table = self.system().table();
        table.tasks.remove(&old);
        table.tree.remove_thread(old);
        self.task().set_tid(pid);
        table.tasks.insert(pid, self.task().clone());
        process.signals().rename_thread(old, pid);
        *process.leader_status.lock() = None;
    }

    /// The point of no return.
    fn switch_program(
        &mut self,
        memory: Arc<AddressSpace>,
        thread: Box<dyn platform::GuestThread>,
        executable: Executable,
        new_credentials: Credentials,
        (sp, entry): (u64, u64),
    ) {
        self.leave_memory();
        self.set_memory(memory, thread);
        if Arc::strong_count(self.files()) > 2
            && let Ok(own) = self.files().fork()
        {
            self.set_files(own);
        }
        for (_, file) in self.files().remove_cloexec() {
            // execve(2) has no way to tell of an error on close.
            let _ = file.ops().flush(&file);
        }
        let process = self.process().clone();
        process.signals().reset_for_exec(self.tid());
        process.timers.clear_for_exec();
        *process.program.lock() = crate::mapped::path_name(executable.file().path());
        let old = process.executable.lock().replace(Arc::new(executable));
        drop(old);
        if let Some(node) = self.system().table().tree.get_mut(process.pid()) {
            node.executed = true;
            // Whatever clone(2) said, a new program's death is told as a child's.
            node.exit_signal = Some(Signal::SIGCHLD);
        }
        self.set_credentials(new_credentials);
        self.restart_block = None;
        let regs = Regs { rip: entry, rsp: sp, flags: Regs::USER_FLAGS, selectors: Regs::USER_SELECTORS, ..Regs::default() };
        if self.thread.set_regs(&regs).is_err() {
            self.handle_gone();
        }
    }
}

/// `struct vfs_cap_data` and `vfs_ns_cap_data`, capabilities(7) "File capabilities": permitted, inheritable, and whether they are effective at
/// once. Anything else is as if it were not there.
fn file_capabilities(value: &[u8]) -> Option<(CapabilitySet, CapabilitySet, bool)> {
    let word = |at: usize| Some(u32::from_le_bytes(value.get(4 * at..4 * at + 4)?.try_into().ok()?));
    let set = |low: usize, high: Option<usize>| {
        let high = high.map_or(Some(0), word)?;
        Some(CapabilitySet((u64::from(word(low)?) | u64::from(high) << 32) & CapabilitySet::FULL.0))
    };
    let head = word(0)?;
    let (permitted, inheritable) = match head >> 24 {
        1 => (set(1, None)?, set(2, None)?),
        2 | 3 => (set(1, Some(3))?, set(2, Some(4))?),
        _ => return None,
    };
    Some((permitted, inheritable, head & 1 != 0))
}

fn read_at(file: &Arc<OpenFile>, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset + done as u64, &mut SliceSink::new(rest))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn read_image(file: &Arc<OpenFile>, header: &Header) -> SysResult<Image> {
    let mut table = vec![0; header.program_headers_len()];
    if header.program_headers_offset > i64::MAX as u64 || read_at(file, header.program_headers_offset, &mut table)? != table.len() {
        return Err(Errno::ENOEXEC.into());
    }
    Ok(Image::parse(header, &table)?)
}

/// A script's interpreter, and the one argument that its line may give.
type Interpreter = (Vec<u8>, Option<Vec<u8>>);

/// `#!`: the interpreter and its one argument, execve(2) "Interpreter scripts". ENOEXEC for a line that names none.
fn script(head: &[u8]) -> Result<Option<Interpreter>, Errno> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = rest.iter().position(|byte| *byte == b'\n' || *byte == 0);
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let start = line.iter().position(|byte| !blank(byte)).ok_or(Errno::ENOEXEC)?;
    let line = line.get(start..).unwrap_or_default();
    let name_end = line.iter().position(blank);
    if end.is_none() && name_end.is_none() {
        // The name itself may be cut off.
        return Err(Errno::ENOEXEC);
    }
    let (name, tail) = line.split_at(name_end.unwrap_or(line.len()));
    let first = tail.iter().position(|byte| !blank(byte));
    let last = tail.iter().rposition(|byte| !blank(byte));
    let argument = match (first, last) {
        (Some(first), Some(last)) => tail.get(first..=last).map(<[u8]>::to_vec),
        _ => None,
    };
    Ok(Some((name.to_vec(), argument)))
}

/// Maps an image; a relocatable one at `wanted`, or where there is room.
fn map_image(memory: &AddressSpace, file: &Arc<OpenFile>, header: &Header, image: &Image, wanted: Option<u64>) -> Result<Loaded, Errno> {
    let (first, end) = image.span();
    let mut bias = 0;
    if header.kind == Kind::Relocatable {
        // One reservation for the whole, which the segments then replace.
        let hint = wanted.unwrap_or(0);
        let at = memory.map(Mapping::anonymous(hint, end - first, Protection::empty(), MapFlags::NORESERVE))?;
        bias = at.wrapping_sub(first);
    }
    let mut loaded = Loaded {
        bias,
        entry: header.entry.wrapping_add(bias),
        headers_addr: image.headers_addr.wrapping_add(bias),
        code: 0..0,
        data: 0..0,
        segments: Vec::new(),
        end: end.wrapping_add(bias),
    };
    let mut brk = 0;
    for segment in &image.segments {
        map_segment(memory, file, segment, bias)?;
        let begin = segment.addr.wrapping_add(bias);
        let (pages_begin, pages_end) = segment.pages();
        let pages = pages_begin.wrapping_add(bias)..pages_end.wrapping_add(bias);
        if segment.rights.contains(Protection::EXEC) && (loaded.code.is_empty() || pages.contains(&loaded.entry)) {
            loaded.code = pages;
        } else if segment.rights.contains(Protection::WRITE) && loaded.data.is_empty() {
            loaded.data = pages;
        }
        loaded.segments.push((pages_begin.wrapping_add(bias)..pages_end.wrapping_add(bias), segment.rights));
        brk = brk.max(begin + segment.memory_len);
    }
    loaded.end = brk;
    if header.kind == Kind::Relocatable {
        remove_gaps(memory, image, bias)?;
    }
    Ok(loaded)
}

/// Takes away what of the reservation lies between segments.
fn remove_gaps(memory: &AddressSpace, image: &Image, bias: u64) -> Result<(), Errno> {
    for pair in image.segments.windows(2) {
        if let [a, b] = pair {
            let (from, to) = (a.pages().1, b.pages().0);
            if from < to {
                drop(memory.unmap(from.wrapping_add(bias), to - from, mm::HostRun::Never)?);
            }
        }
    }
    Ok(())
}

fn map_segment(memory: &AddressSpace, file: &Arc<OpenFile>, segment: &Segment, bias: u64) -> Result<(), Errno> {
    let page = PAGE_SIZE as u64;
    let (first, end) = segment.pages();
    let file_end = if segment.file_len == 0 { first } else { (segment.addr + segment.file_len + PAGE_MASK) & !PAGE_MASK };
    let at = |addr: u64| addr.wrapping_add(bias);
    if file_end > first {
        let offset = segment.offset & !PAGE_MASK;
        let access = MapAccess::from_bits_truncate(u32::from(segment.rights.bits()));
        let pages = file.mmap(&MapRequest { offset, len: file_end - first, access }).map_err(abi::SysError::errno)?;
        let backing = Backing { pages, file: Some(FileMapping::of(file)), offset: offset / page };
        memory.map(Mapping::of(backing, at(first), file_end - first, segment.rights, MapFlags::PRIVATE | MapFlags::FIXED))?;
    }
    if end > file_end {
        memory.map(Mapping::anonymous(at(file_end), end - file_end, segment.rights, MapFlags::FIXED))?;
    }
    // What follows the file's bytes on their last page is bss, and zero.
    let tail = segment.addr + segment.file_len;
    if segment.memory_len > segment.file_len && segment.file_len > 0 && tail & PAGE_MASK != 0 && segment.rights.contains(Protection::WRITE)
    {
        memory.zero(at(tail), (page - (tail & PAGE_MASK)) as usize)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{file_capabilities, script};
    use abi::Errno;

    #[test]
    fn a_scripts_first_line_names_an_interpreter_and_one_argument() {
        let some = |name: &str, argument: Option<&str>| Ok(Some((name.as_bytes().to_vec(), argument.map(|a| a.as_bytes().to_vec()))));
        for (line, want) in [
            ("#!/bin/sh\nrest", some("/bin/sh", None)),
            ("#! /bin/sh  \n", some("/bin/sh", None)),
            ("#!/usr/bin/env python3 -u\n", some("/usr/bin/env", Some("python3 -u"))),
            ("#!\t/bin/awk\t-f \t\n", some("/bin/awk", Some("-f"))),
            ("#!\n", Err(Errno::ENOEXEC)),
            ("#!", Err(Errno::ENOEXEC)),
            ("\x7fELF", Ok(None)),
        ] {
            assert_eq!(script(line.as_bytes()), want, "{line:?}");
        }
    }
    #[test]
    fn file_capabilities_are_read_in_all_versions_and_never_trusted() {
        let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let parsed = |words: &[u32]| file_capabilities(&bytes(words)).map(|(p, i, e)| (p.0, i.0, e));
        assert_eq!(parsed(&[0x0200_0001, 0x2000, 0, 0, 0]), Some((0x2000, 0, true)));
        assert_eq!(parsed(&[0x0300_0000, 1, 2, 1, 0, 0]), Some((0x1_0000_0001, 2, false)));
        assert_eq!(parsed(&[0x0100_0000, 5, 6]), Some((5, 6, false)));
        assert_eq!(parsed(&[0x0200_0001, 1, 2]), None);
        assert_eq!(parsed(&[0x0900_0001, 1, 2, 3, 4]), None);
        assert_eq!(parsed(&[]), None);
    }
}
