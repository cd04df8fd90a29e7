//! A host file or directory that somebody holds, and how to open it again.
//!
//! A [`Node`] knows its parent, its name there and its identity. Its descriptor may be closed behind it; opening it again by name must find the
//! same file, or the answer is ESTALE. When *we* rename or unlink, the nodes concerned are told first, so only changes by others can make
//! one stale.
//!
//! Always true: parents form a tree without cycles, and no walk over it recurses (a guest makes it as deep as it likes).

use super::descriptors::{Descriptor, Descriptors};
use super::sys::{self, FileId};
use abi::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a node's descriptor is good for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Access {
    /// A directory, as a path.
    Directory,
    /// A regular file, for reading.
    Read,
    /// A regular file, for reading and writing.
    Write,
}

/// One subtree of the host that was given away.
pub(super) struct Tree {
    descriptors: Arc<Descriptors>,
    /// The nodes that somebody holds: one for each file and access.
    nodes: Mutex<HashMap<(FileId, Access), Weak<Node>>>,
    /// Held while a place changes, so that two changes together make no cycle.
    placing: Mutex<()>,
}

pub(super) struct Node {
    tree: Arc<Tree>,
    id: FileId,
    access: Access,
    /// Parent and name; none for the root of the tree.
    place: Mutex<Option<(Arc<Node>, Vec<u8>)>>,
    slot: u64,
    pinned: Mutex<Option<Arc<Descriptor>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// A tree below an open directory.
    pub fn open(root: OwnedFd, descriptors: Arc<Descriptors>) -> Result<Arc<Node>, Errno> {
        sys::probe_openat2(root.as_fd());
        let (id, _) = sys::stat_fd(root.as_fd())?;
        let slot = descriptors.new_slot();
        let tree = Arc::new(Tree { descriptors, nodes: Mutex::default(), placing: Mutex::default() });
        tree.descriptors.pin()?;
        let pinned = Mutex::new(Some(Descriptor::new(root, (id.dev, id.ino))));
        let node = Arc::new(Node { tree: tree.clone(), id, access: Access::Directory, place: Mutex::new(None), slot, pinned });
        lock(&tree.nodes).insert((id, Access::Directory), Arc::downgrade(&node));
        Ok(node)
    }

    fn find(&self, id: FileId, access: Access) -> Option<Arc<Node>> {
        lock(&self.nodes).get(&(id, access)).and_then(Weak::upgrade)
    }

    /// The node for what was just opened as `name` in `parent`: the one there is, or a new one.
    pub fn node(self: &Arc<Tree>, parent: &Arc<Node>, name: &[u8], fd: OwnedFd, id: FileId, access: Access) -> Arc<Node> {
        let descriptor = Descriptor::new(fd, (id.dev, id.ino));
        let mut nodes = lock(&self.nodes);
        let node = match nodes.get(&(id, access)).and_then(Weak::upgrade) {
            Some(node) => node,
            None => {
                let node = Arc::new(Node {
                    tree: self.clone(),
                    id,
                    access,
                    place: Mutex::new(Some((parent.clone(), name.to_vec()))),
                    slot: self.descriptors.new_slot(),
                    pinned: Mutex::new(None),
                });
                nodes.insert((id, access), Arc::downgrade(&node));
                node
            }
        };
        drop(nodes);
        node.set_place(parent, name);
        self.descriptors.insert(node.slot, descriptor);
        node
    }

    /// Makes sure that open files called `name` in `dir` outlive that name. Gives them back, for [`Node::unpin`] if the name stays after all.
    pub fn pin_entry(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<Arc<Node>>, Errno> {
        let Ok((id, _)) = sys::stat_at(dir, name) else { return Ok(Vec::new()) };
        let mut pinned: Vec<Arc<Node>> = Vec::new();
        for access in [Access::Read, Access::Write] {
            if let Some(node) = self.find(id, access) {
                match node.pin() {
                    Ok(true) => pinned.push(node),
                    Ok(false) => {}
                    Err(errno) => {
                        pinned.iter().for_each(|node| node.unpin());
                        return Err(errno);
                    }
                }
            }
        }
        Ok(pinned)
    }

    /// What is held of the entry `name` of `dir`, whatever it is.
    pub fn held(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Vec<Arc<Node>> {
        let Ok((id, _)) = sys::stat_at(dir, name) else { return Vec::new() };
        [Access::Directory, Access::Read, Access::Write].into_iter().filter_map(|access| self.find(id, access)).collect()
    }
}

impl Node {
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The open descriptor; opened again if it was closed meanwhile. ESTALE when its name leads elsewhere by now.
    pub fn descriptor(self: &Arc<Node>) -> Result<Arc<Descriptor>, Errno> {
        if let Some(open) = self.if_open() {
            return Ok(open);
        }
        // A rename of ours may change a place while we walk: then the walk is made again.
        let mut last = Errno::ESTALE;
        for _ in 0..4 {
            match self.open_again() {
                Ok(open) => return Ok(open),
                Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EACCES)) => return Err(errno),
                Err(_) => last = Errno::ESTALE,
            }
        }
        Err(last)
    }

    fn if_open(&self) -> Option<Arc<Descriptor>> {
        if let Some(pinned) = lock(&self.pinned).as_ref() {
            return Some(pinned.clone());
        }
        self.tree.descriptors.get(self.slot)
    }

    fn open_again(self: &Arc<Node>) -> Result<Arc<Descriptor>, Errno> {
        let mut chain = vec![self.clone()];
        let mut open = loop {
            let lowest = chain.last().ok_or(Errno::ESTALE)?;
            let parent = lock(&lowest.place).as_ref().map(|(parent, _)| parent.clone()).ok_or(Errno::ESTALE)?;
            if let Some(open) = parent.if_open() {
                break open;
            }
            chain.push(parent);
        };
        while let Some(node) = chain.pop() {
            let name = lock(&node.place).as_ref().map(|(_, name)| name.clone()).ok_or(Errno::ESTALE)?;
            let (fd, id) = match node.access {
                Access::Directory => sys::open_directory(open.as_fd(), &name)?,
                Access::Read => sys::open_regular(open.as_fd(), &name, false)?,
                Access::Write => sys::open_regular(open.as_fd(), &name, true)?,
            };
            if id != node.id {
                return Err(Errno::ESTALE);
            }
            open = Descriptor::new(fd, (id.dev, id.ino));
            self.tree.descriptors.insert(node.slot, open.clone());
        }
        Ok(open)
    }

    /// Notes where the node is now. A place that would lie inside the node itself (others moved directories about while we looked) is not
    /// taken over.
    pub fn set_place(self: &Arc<Node>, parent: &Arc<Node>, name: &[u8]) {
        let old;
        {
            let _placing = lock(&self.tree.placing);
            if let Some((held, at)) = lock(&self.place).as_ref()
                && Arc::ptr_eq(held, parent)
                && at == name
            {
                return;
            }
            let mut above = Some(parent.clone());
            while let Some(node) = above {
                if Arc::ptr_eq(&node, self) {
                    return;
                }
                above = lock(&node.place).as_ref().map(|(parent, _)| parent.clone());
            }
            let mut place = lock(&self.place);
            if place.is_none() {
                // The root of the tree stays where it is.
                return;
            }
            old = place.replace((parent.clone(), name.to_vec()));
        }
        drop(old);
    }

    /// Keeps the descriptor open for the rest of the node's life. Whether it was not so before; ENFILE when too many are kept so.
    pub fn pin(self: &Arc<Node>) -> Result<bool, Errno> {
        let open = self.descriptor()?;
        let mut pinned = lock(&self.pinned);
        if pinned.is_some() {
            return Ok(false);
        }
        self.tree.descriptors.pin()?;
        *pinned = Some(open);
        drop(pinned);
        self.tree.descriptors.remove(self.slot);
        Ok(true)
    }

    /// Takes [`Node::pin`] back.
    pub fn unpin(&self) {
        let was = lock(&self.pinned).take();
        if let Some(open) = was {
            self.tree.descriptors.unpin();
            self.tree.descriptors.insert(self.slot, open);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if lock(&self.pinned).take().is_some() {
            self.tree.descriptors.unpin();
        }
        self.tree.descriptors.remove(self.slot);
        {
            let mut nodes = lock(&self.tree.nodes);
            if nodes.get(&(self.id, self.access)).is_some_and(|held| held.strong_count() == 0) {
                nodes.remove(&(self.id, self.access));
            }
        }
        // A chain of parents that only this node held is let go of link by link, not by recursion.
        let mut place = lock(&self.place).take();
        while let Some((parent, _)) = place {
            place = Arc::into_inner(parent).and_then(|parent| lock(&parent.place).take());
        }
    }
}
