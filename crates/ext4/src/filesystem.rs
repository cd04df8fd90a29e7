//! A mounted file system: mounting, transactions and when they commit, checkpoints, errors, unmounting.
//!
//! Not here: operations on names and files (`names`, `files`) and the log's format (`journal`).
//!
//! How a change becomes durable: an operation changes metadata in the running transaction, inside a [`Handle`]. A commit keeps new handles
//! out, waits for open ones, takes the transaction out with all its blocks frozen, lets handles in again, and writes the log. Blocks go
//! home at a checkpoint, when the log is full or at unmount. Whoever writes file data inside the handle that mapped it has ordered mode.
//! Without a journal a commit writes blocks home at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use block::{BlockDevice, Durability, SECTOR_SIZE};
use sync::{Mutex, Rank, RwLock, SpinLock};

use crate::cache::Block;
use crate::core::{Core, Sealed, is_after};
use crate::error::{Error, Result};
use crate::inode::Timestamp;
use crate::journal::Journal;
use crate::journal::fast_commit::{self, Record};
use crate::lock::Gate;
use crate::options::{ErrorPolicy, Options};
use crate::superblock::{Compat, Incompat, RoCompat, Superblock, state};

/// Blocks that an ordinary operation may change.
pub(crate) const CREDITS: u32 = 48;
/// Blocks of a running transaction without a journal, after which it is written home.
const UNJOURNALED_LIMIT: u32 = 2048;

/// What happened that somebody should be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The image contradicts itself.
    Corrupt {
        /// Where.
        block: u64,
        /// What.
        what: &'static str,
    },
    /// The journal could not be written.
    JournalAborted(Errno),
    /// Nothing is written any more.
    RemountedReadOnly,
    /// `errors=panic` wants the kernel to panic.
    Panic,
    /// The journal was replayed at mount.
    Recovered,
    /// Orphans that the mount finished: inodes deleted, and truncated.
    Orphans(u32, u32),
    /// The image was marked as having errors when it was mounted.
    HasErrors,
}

/// Numbers for statfs(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks that files may use (the file system's own taken off, as Linux's `bsddf`).
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Free blocks for ordinary users.
    pub available_blocks: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
    /// The UUID.
    pub uuid: [u8; 16],
}

/// A mounted file system.
pub struct Filesystem {
    pub(crate) core: RwLock<Core>,
    journal: Mutex<Option<Journal>>,
    gate: Gate,
    options: SpinLock<Options>,
    events: SpinLock<Vec<Event>>,
    clock: SpinLock<Timestamp>,
    committed: SpinLock<u32>,
    read_only: AtomicBool,
    /// It is read-only because it was frozen.
    frozen: AtomicBool,
    aborted: AtomicBool,
    has_journal: bool,
    limit: u32,
}

/// Permission to change metadata in the running transaction. While one is open the transaction does not commit, so file data written
/// inside it is on its way to the disk before the metadata is.
pub struct Handle<'a> {
    filesystem: &'a Filesystem,
    credits: u32,
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        self.filesystem.gate.leave(self.credits);
    }
}

impl Handle<'_> {
    /// As [`Handle::run`], for callers outside: corruption follows the error policy.
    pub(crate) fn run_reported<T>(&self, operation: impl FnOnce(&mut Core) -> Result<T>) -> Result<T> {
        self.run(operation).map_err(|error| self.filesystem.report(error))
    }

    /// Runs one operation; if it fails, nothing of it remains.
    pub(crate) fn run<T>(&self, operation: impl FnOnce(&mut Core) -> Result<T>) -> Result<T> {
        let mut core = self.filesystem.core.write();
        core.begin_operation();
        let result = operation(&mut core);
        match result {
            Ok(_) => core.end_operation(),
            Err(_) => core.take_back(),
        }
        result
    }
}

impl Filesystem {
    /// Mounts: replays the journal, finishes orphans, and marks the image as in use unless `ro`.
    ///
    /// # Errors
    /// [`Error::NotExt`], [`Error::Unsupported`], [`Error::ReadOnlyFeature`] (mount again with `ro`), [`Error::ReadOnly`] when the
    /// device is read-only but the mount would have to write, [`Error::Corrupt`].
    pub fn mount(device: Arc<dyn BlockDevice>, options: Options) -> Result<Arc<Filesystem>> {
        let mut events = Vec::new();
        let device_read_only = device.is_read_only();
        if device_read_only && !options.read_only {
            return Err(Error::ReadOnly);
        }
        let mut core = Core::load(device.clone(), options.cache_blocks)?;
        let forbidding = Superblock::read_only_feature(&core.geometry);
        if let (false, Some(feature)) = (options.read_only, forbidding) {
            return Err(Error::ReadOnlyFeature(feature));
        }
        let mut journal = None;
        if core.geometry.compat.contains(Compat::HAS_JOURNAL) && !options.no_load {
            let mut opened = Journal::open(&core, options.journal_device.clone())?;
            opened.barrier = options.barrier;
            if core.geometry.incompat.contains(Incompat::RECOVER) {
                if device_read_only {
                    return Err(Error::ReadOnly);
                }
                recover(&device, &mut opened, &mut core, &options)?;
                events.push(Event::Recovered);
            }
            if opened.needs_recovery() {
                // Old transactions that nobody asked for: the next ones get numbers far behind theirs.
                let next = opened.next_tid().wrapping_add(opened.len());
                if !device_read_only {
                    opened.mark_clean(next)?;
                }
            }
            if opened.recorded_error() != 0 {
                core.superblock.set_state(core.superblock.state() | state::ERROR);
                opened.clear_error();
            }
            core.running.tid = opened.next_tid().max(1);
            journal = Some(opened);
        } else if core.geometry.incompat.contains(Incompat::RECOVER) && !options.no_load {
            return Err(Error::Corrupt { block: 0, what: "superblock: needs recovery without a journal" });
        }
        if core.superblock.state() & state::ERROR != 0 {
            events.push(Event::HasErrors);
        }
        let has_journal = journal.is_some();
        let limit = journal.as_ref().map_or(UNJOURNALED_LIMIT, |j| j.len() / 8);
        let committed = core.running.tid.wrapping_sub(1);
        let read_only = options.read_only;
        let filesystem = Arc::new(Filesystem {
            core: RwLock::new(core),
            journal: Mutex::ranked(Rank::Journal, journal),
            gate: Gate::new(),
            clock: SpinLock::new(options.now),
            options: SpinLock::new(options),
            events: SpinLock::new(events),
            committed: SpinLock::new(committed),
            read_only: AtomicBool::new(true),
            frozen: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            has_journal,
            limit,
        });
        let can_write = !device_read_only && forbidding.is_none();
        let has_orphans = { filesystem.core.read().superblock.first_orphan() != 0 || filesystem.has_orphan_file_entries() };
        if !read_only || (can_write && has_orphans && !filesystem.options.lock().no_load) {
            filesystem.start_writing()?;
            filesystem.finish_orphans()?;
        }
        if read_only && !filesystem.is_read_only() {
            filesystem.stop_writing()?;
        }
        Ok(filesystem)
    }

    fn has_orphan_file_entries(&self) -> bool {
        self.core.read().superblock.ro_compat().contains(RoCompat::ORPHAN_PRESENT)
    }

    /// Marks the image as in use, by a mount.
    fn start_writing(&self) -> Result<()> {
        self.mark_in_use(true)
    }

    fn mark_in_use(&self, by_mount: bool) -> Result<()> {
        let now = *self.clock.lock();
        let mut journal = self.journal.lock();
        let mut core = self.core.write();
        if let Some(journal) = journal.as_mut() {
            journal.prepare_for_writing(&core)?;
            core.superblock.set_incompat(Incompat::RECOVER, true);
        } else {
            let clean = core.superblock.state() & !state::VALID;
            core.superblock.set_state(clean);
        }
        if core.geometry.compat.contains(Compat::ORPHAN_FILE) {
            if by_mount {
                // Entries of an earlier mount are known only while the mark is there.
                core.find_orphans()?;
            }
            core.superblock.set_ro_compat(RoCompat::ORPHAN_PRESENT, true);
        }
        if by_mount {
            core.superblock.note_mount(now.seconds);
        }
        core.superblock.note_write(now.seconds);
        core.write_superblock_directly()?;
        core.device.flush()?;
        self.read_only.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes everything home and marks the image as clean.
    fn stop_writing(&self) -> Result<()> {
        self.commit()?;
        let mut journal = self.journal.lock();
        self.checkpoint(&mut journal)?;
        let next = self.committed.lock().wrapping_add(1);
        if let Some(journal) = journal.as_mut() {
            journal.mark_clean(next)?;
        }
        let mut core = self.core.write();
        core.superblock.set_incompat(Incompat::RECOVER, false);
        if core.orphans.is_empty() {
            core.superblock.set_ro_compat(RoCompat::ORPHAN_PRESENT, false);
        }
        if core.superblock.state() & state::ERROR == 0 {
            core.superblock.set_state(state::VALID);
        }
        core.superblock.note_write(self.clock.lock().seconds);
        core.write_superblock_directly()?;
        core.device.flush()?;
        self.read_only.store(true, Ordering::Release);
        Ok(())
    }

    /// Unmounts: afterwards nothing may be changed. Without it, dropping the file system is as a power failure.
    ///
    /// # Errors
    /// [`Error::Device`]. The image then needs its journal replayed.
    pub fn unmount(&self) -> Result<()> {
        if self.is_read_only() { Ok(()) } else { self.stop_writing() }
    }

    /// Makes the device as an unmount would leave it, so that it can be copied; until [`Filesystem::thaw`] changes are refused as on a read-only
    /// mount, so the caller has seen to it that none come.
    ///
    /// # Errors
    /// [`Error::Device`]. The image then needs its journal replayed.
    pub fn freeze(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        self.stop_writing()?;
        self.frozen.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes changes again, if [`Filesystem::freeze`] stopped them.
    ///
    /// # Errors
    /// [`Error::Device`]; then the file system stays read-only.
    pub fn thaw(&self) -> Result<()> {
        if self.frozen.swap(false, Ordering::AcqRel) { self.mark_in_use(false) } else { Ok(()) }
    }

    /// Changes the options of a mounted file system (`mount -o remount`).
    ///
    /// # Errors
    /// As [`Filesystem::mount`]. Options that only a mount can change are not looked at.
    pub fn remount(&self, options: Options) -> Result<()> {
        *self.clock.lock() = options.now;
        let to_read_only = options.read_only;
        {
            let mut current = self.options.lock();
            let journal_device = current.journal_device.take();
            *current = Options { journal_device, no_load: current.no_load, ..options };
        }
        if let Some(journal) = self.journal.lock().as_mut() {
            journal.barrier = self.options.lock().barrier;
        }
        match (self.is_read_only(), to_read_only) {
            (false, true) => self.stop_writing(),
            (true, false) => {
                if self.aborted.load(Ordering::Acquire) {
                    return Err(Error::Aborted);
                }
                let core = self.core.read();
                if core.device.is_read_only() {
                    return Err(Error::ReadOnly);
                }
                if let Some(feature) = Superblock::read_only_feature(&core.geometry) {
                    return Err(Error::ReadOnlyFeature(feature));
                }
                if self.options.lock().no_load {
                    return Err(Error::BadOption("noload: unmount and mount again to write"));
                }
                drop(core);
                self.start_writing()
            }
            _ => Ok(()),
        }
    }

    /// Whether changes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// What happened since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
    }

    /// The options in force.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options.lock().clone()
    }

    /// The volume's label.
    #[must_use]
    pub fn label(&self) -> Vec<u8> {
        self.core.read().superblock.label().to_vec()
    }

    /// How many errors the superblock records, and the last one's block and text (`/sys/fs/ext4/*/errors_count` and its neighbours).
    #[must_use]
    pub fn recorded_errors(&self) -> (u32, u64, Vec<u8>) {
        let core = self.core.read();
        let (count, block, text) = core.superblock.last_error();
        (count, block, text.iter().copied().take_while(|&c| c != 0).collect())
    }

    /// Bytes in a block: 1, 2, 4 to 64 KiB.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.core.read().geometry.block_size
    }

    /// Numbers for statfs(2).
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let core = self.core.read();
        let g = &core.geometry;
        let overhead: u64 = core.system_blocks.iter().map(|(_, len)| len).sum::<u64>() + self.journal_blocks();
        let free = core.free_clusters.saturating_sub(core.reserved_clusters) << g.cluster_bits;
        Statistics {
            block_size: g.block_size as u32,
            blocks: g.blocks_count.saturating_sub(overhead),
            free_blocks: free,
            available_blocks: free.saturating_sub(g.reserved_blocks),
            inodes: u64::from(g.inodes_count),
            free_inodes: core.free_inodes,
            uuid: core.superblock.uuid(),
        }
    }

    fn journal_blocks(&self) -> u64 {
        if self.has_journal { u64::from(self.limit) * 8 } else { 0 }
    }

    /// Who besides root may use the reserve: user and group.
    #[must_use]
    pub fn reserved_owner(&self) -> (u32, u32) {
        let (uid, gid) = self.core.read().superblock.reserved_owner();
        let options = self.options.lock();
        (options.reserved_owner.0.unwrap_or(uid), options.reserved_owner.1.unwrap_or(gid))
    }

    /// Drops clean metadata from memory; gives nothing that is needed away.
    pub fn drop_caches(&self) {
        self.core.read().drop_clean();
    }

    pub(crate) fn clock(&self) -> Timestamp {
        *self.clock.lock()
    }

    pub(crate) fn note_orphans(&self, deleted: u32, truncated: u32) {
        self.events.lock().push(Event::Orphans(deleted, truncated));
    }

    pub(crate) fn set_clock(&self, now: Timestamp) {
        *self.clock.lock() = now;
    }

    /// Opens a handle for a change of up to `credits` blocks. It waits while a commit gathers the running transaction.
    ///
    /// A task that holds a handle changes things through its methods only: operations that open a handle of their own, and commits, would
    /// wait for it for ever.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], or whatever a commit that had to come first ended with.
    pub fn begin(&self, credits: u32) -> Result<Handle<'_>> {
        loop {
            if self.is_read_only() {
                return Err(if self.aborted.load(Ordering::Acquire) { Error::Aborted } else { Error::ReadOnly });
            }
            let used = {
                let core = self.core.read();
                (core.running.blocks.len() + core.running.revoked.len() / 8) as u32
            };
            let fits = used == 0 || used.saturating_add(credits) <= self.limit;
            if fits && self.gate.enter(credits, self.limit) {
                return Ok(Handle { filesystem: self, credits });
            }
            self.commit()?;
        }
    }

    /// One operation in its own handle. When blocks ran out that only wait for a commit, it commits and tries again.
    pub(crate) fn update<T>(&self, credits: u32, mut operation: impl FnMut(&mut Core) -> Result<T>) -> Result<T> {
        let mut tried = false;
        loop {
            let handle = self.begin(credits)?;
            let result = handle.run(&mut operation);
            drop(handle);
            match result {
                Err(Error::NoSpace) if !tried && !self.core.read().held.is_empty() => {
                    tried = true;
                    self.commit()?;
                }
                Err(error) => return Err(self.report(error)),
                done => return done,
            }
        }
    }

    /// Looks at metadata. Corruption found on the way follows the error policy too.
    pub(crate) fn look<T>(&self, operation: impl FnOnce(&Core) -> Result<T>) -> Result<T> {
        let result = operation(&self.core.read());
        result.map_err(|error| self.report(error))
    }

    /// Applies the error policy to what an operation ended with, and gives it on.
    pub(crate) fn report(&self, error: Error) -> Error {
        let Error::Corrupt { block, what } = error else { return error };
        let now = *self.clock.lock();
        let mut events = self.events.lock();
        if events.len() < 256 {
            events.push(Event::Corrupt { block, what });
        }
        drop(events);
        if self.is_read_only() {
            return error;
        }
        let in_options = self.options.lock().errors;
        let mut core = self.core.write();
        let policy = in_options.unwrap_or(match core.superblock.errors_behaviour() {
            2 => ErrorPolicy::RemountReadOnly,
            3 => ErrorPolicy::Panic,
            _ => ErrorPolicy::Continue,
        });
        core.superblock.note_error(block, what, now.seconds);
        // If even this can't be written, the caller still gets the corruption, which came first.
        let _ = core.write_superblock_directly();
        drop(core);
        if policy != ErrorPolicy::Continue {
            self.stop_after_error(policy);
        }
        error
    }

    fn stop_after_error(&self, policy: ErrorPolicy) {
        self.aborted.store(true, Ordering::Release);
        self.read_only.store(true, Ordering::Release);
        let mut events = self.events.lock();
        events.push(Event::RemountedReadOnly);
        if policy == ErrorPolicy::Panic {
            events.push(Event::Panic);
        }
    }

    /// The device failed under the journal: nothing more may be written, or order would be lost.
    fn abort(&self, journal: &mut Option<Journal>, error: Error) -> Error {
        let errno = Errno::from(error);
        if let Some(journal) = journal.as_mut() {
            let _ = journal.record_error(errno.raw());
        }
        self.events.lock().push(Event::JournalAborted(errno));
        self.stop_after_error(ErrorPolicy::RemountReadOnly);
        error
    }

    /// Makes every change so far durable: sync(2), and what runs every `commit=` seconds.
    ///
    /// # Errors
    /// [`Error::Device`] and [`Error::Aborted`].
    pub fn commit(&self) -> Result<()> {
        let tid = self.core.read().running.tid;
        self.commit_through(tid)
    }

    /// Makes an inode's metadata, and data written before, durable: fsync(2).
    ///
    /// # Errors
    /// [`Error::Device`] and [`Error::Aborted`].
    pub fn sync_inode(&self, ino: u32) -> Result<()> {
        let (tid, device) = {
            let core = self.core.read();
            (core.changed_inodes.get(&ino).copied(), core.device.clone())
        };
        match tid {
            Some(tid) => self.commit_through(tid),
            None if self.aborted.load(Ordering::Acquire) => Err(Error::Aborted),
            None if self.options.lock().barrier => Ok(device.flush()?),
            None => Ok(()),
        }
    }

    /// Returns when transaction `tid` is durable. Whoever comes while another commit is being written waits for it, and then most
    /// likely finds that the next one took its changes along: that is group commit.
    fn commit_through(&self, tid: u32) -> Result<()> {
        let mut journal = self.journal.lock();
        if self.aborted.load(Ordering::Acquire) {
            return Err(Error::Aborted);
        }
        if !is_after(tid, *self.committed.lock()) {
            return Ok(());
        }
        // Room is made before the transaction is taken out: after that, `logged` may hold blocks newer than the last commit.
        let waiting = self.core.read().logged.len();
        if journal.as_ref().is_some_and(Journal::is_half_full) || waiting > 2 * self.options.lock().cache_blocks {
            self.checkpoint_or_abort(&mut journal)?;
        }
        self.gate.close();
        let room = self.make_room(&mut journal);
        let sealed = {
            let mut core = self.core.write();
            (room.is_ok() && !core.is_running_empty()).then(|| core.seal_running())
        };
        self.gate.reopen();
        room?;
        let device = self.core.read().device.clone();
        let barrier = self.options.lock().barrier;
        let Some(sealed) = sealed else {
            return if barrier { Ok(device.flush()?) } else { Ok(()) };
        };
        let written = self.write_transaction(&mut journal, &sealed, barrier);
        if let Err(error) = written {
            return Err(self.abort(&mut journal, error));
        }
        *self.committed.lock() = sealed.tid;
        let mut core = self.core.write();
        // Their copies in the log are revoked now; they must not go home over what the blocks hold next.
        for number in &sealed.revoked {
            if sealed.blocks.binary_search_by_key(number, |(home, _)| *home).is_err() {
                core.logged.remove(number);
            }
        }
        let freed = core.release_held(sealed.tid);
        drop(core);
        if self.options.lock().discard {
            self.discard_runs(device.as_ref(), &freed);
        }
        Ok(())
    }

    fn write_transaction(&self, journal: &mut Option<Journal>, sealed: &Sealed, barrier: bool) -> Result<()> {
        let now = *self.clock.lock();
        let Some(journal) = journal.as_mut() else { return self.write_home(sealed.blocks.clone(), barrier) };
        if journal.is_external() && barrier {
            self.core.read().device.clone().flush()?;
        }
        journal.commit(sealed, now)
    }

    /// Empties the log if the running transaction, which nothing adds to now, would not fit.
    fn make_room(&self, journal: &mut Option<Journal>) -> Result<()> {
        let (blocks, revokes) = self.core.read().running_len();
        match journal.as_ref() {
            Some(journal) if !journal.has_room_for(blocks, revokes) => {}
            _ => return Ok(()),
        }
        self.checkpoint_or_abort(journal)
    }

    fn checkpoint_or_abort(&self, journal: &mut Option<Journal>) -> Result<()> {
        self.checkpoint(journal).map_err(|error| self.abort(journal, error))
    }

    /// Writes home what is committed and empties the log. Nothing may be sealed and not yet committed.
    fn checkpoint(&self, journal: &mut Option<Journal>) -> Result<()> {
        let barrier = self.options.lock().barrier;
        let mut blocks: Vec<(u64, Block)> = self.core.read().logged.iter().map(|(number, block)| (*number, block.clone())).collect();
        blocks.sort_unstable_by_key(|(number, _)| *number);
        self.write_home(blocks, barrier)?;
        let next = self.committed.lock().wrapping_add(1);
        journal.as_mut().map_or(Ok(()), |journal| journal.empty_to(next))
    }

    /// Writes blocks to their places, neighbours together, and makes them durable.
    fn write_home(&self, blocks: Vec<(u64, Block)>, barrier: bool) -> Result<()> {
        let (device, block_size) = {
            let core = self.core.read();
            (core.device.clone(), core.geometry.block_size)
        };
        let per_block = (block_size / SECTOR_SIZE) as u64;
        let mut at = 0;
        while at < blocks.len() {
            let first = blocks[at].0;
            let mut end = at + 1;
            while end < blocks.len() && end - at < 64 && blocks[end].0 == first + (end - at) as u64 {
                end += 1;
            }
            let bytes: Vec<u8> = blocks[at..end].iter().flat_map(|(_, block)| block.iter().copied()).collect();
            device.write(first * per_block, &bytes, Durability::Cached)?;
            at = end;
        }
        if barrier {
            device.flush()?;
        }
        let mut core = self.core.write();
        for (number, block) in &blocks {
            core.checkpointed(*number, block);
        }
        Ok(())
    }

    fn discard_runs(&self, device: &dyn BlockDevice, runs: &[(u64, u64)]) {
        let per_block = (self.block_size() / SECTOR_SIZE) as u64;
        for (start, len) in runs {
            // A hint: a device that can't is not an error.
            if device.discard(start * per_block, len * per_block) == Err(Errno::EOPNOTSUPP) {
                return;
            }
        }
    }
}

/// Replays the journal and loads the metadata again.
fn recover(device: &Arc<dyn BlockDevice>, journal: &mut Journal, core: &mut Core, options: &Options) -> Result<()> {
    let mut next = journal.next_tid();
    if journal.needs_recovery() {
        let tid = journal.replay(device.as_ref())?;
        *core = Core::load(device.clone(), options.cache_blocks)?;
        let records = journal.fast_commits(tid)?;
        if !records.is_empty() {
            redo(device, journal, core, tid, &records, options)?;
        }
        next = tid.wrapping_add(1);
    }
    journal.mark_clean(next)?;
    journal.flush()?;
    core.superblock.set_incompat(Incompat::RECOVER, false);
    core.write_superblock_directly()?;
    Ok(device.flush()?)
}

/// Turns fast commits into one full commit, writes it home and loads the metadata again.
fn redo(
    device: &Arc<dyn BlockDevice>,
    journal: &mut Journal,
    core: &mut Core,
    tid: u32,
    records: &[Record],
    options: &Options,
) -> Result<()> {
    core.running.tid = tid;
    fast_commit::apply(core, records)?;
    let sealed = core.seal_running();
    // What came before is home: the log may begin at this transaction.
    journal.empty_to(tid)?;
    journal.commit(&sealed, options.now)?;
    let per_block = (core.geometry.block_size / SECTOR_SIZE) as u64;
    for (number, block) in &sealed.blocks {
        device.write(number * per_block, block, Durability::Cached)?;
    }
    device.flush()?;
    *core = Core::load(device.clone(), options.cache_blocks)?;
    Ok(())
}
