//! Random operations against a model in memory, with remounts in between; e2fsck judges the end.
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use ext4::{Claim, Error, Fallocate, Filesystem, ROOT_INODE, RenameMode};

#[derive(Clone, Debug)]
enum Node {
    File { ino: u32, data: Vec<u8> },
    Dir { ino: u32, children: BTreeMap<String, Node> },
}

impl Node {
    fn ino(&self) -> u32 {
        match self {
            Node::File { ino, .. } | Node::Dir { ino, .. } => *ino,
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self, Node::Dir { .. })
    }
}

struct World {
    fs: Arc<Filesystem>,
    root: Node,
    random: Random,
    step: u64,
}

fn children(node: &mut Node) -> &mut BTreeMap<String, Node> {
    match node {
        Node::Dir { children, .. } => children,
        Node::File { .. } => unreachable!("paths lead to directories"),
    }
}

impl World {
    /// A random directory: its path from the root.
    fn some_dir(&mut self) -> Vec<String> {
        let (mut path, mut at) = (Vec::new(), &self.root);
        while let Node::Dir { children, .. } = at {
            let dirs: Vec<(&String, &Node)> = children.iter().filter(|(_, n)| n.is_dir()).collect();
            if dirs.is_empty() || self.random.below(3) == 0 {
                break;
            }
            let (name, next) = dirs[self.random.below(dirs.len() as u64) as usize];
            path.push(name.clone());
            at = next;
        }
        path
    }

    fn at(&mut self, path: &[String]) -> &mut Node {
        path.iter().fold(&mut self.root, |node, name| children(node).get_mut(name).unwrap())
    }

    fn name(&mut self) -> String {
        let n = self.random.below(12);
        if n < 10 { format!("n{n}") } else { format!("{}{}", "long".repeat(30 + n as usize), self.random.below(200)) }
    }

    fn step(&mut self) {
        self.step += 1;
        let path = self.some_dir();
        let dir = self.at(&path).ino();
        let name = self.name();
        let there = children(self.at(&path)).get(&name).cloned();
        match self.random.below(16) {
            0..=2 => {
                let made = self.fs.create(dir, name.as_bytes(), &file(0o644));
                match there {
                    Some(_) => assert_eq!(made, Err(Error::Exists)),
                    None => drop(children(self.at(&path)).insert(name, Node::File { ino: made.unwrap().ino, data: Vec::new() })),
                }
            }
            3 if path.len() < 5 => {
                let made = self.fs.create(dir, name.as_bytes(), &directory());
                match there {
                    Some(_) => assert_eq!(made, Err(Error::Exists)),
                    None => drop(children(self.at(&path)).insert(name, Node::Dir { ino: made.unwrap().ino, children: BTreeMap::new() })),
                }
            }
            4..=8 => self.change_file(&path, &name),
            9 | 10 => self.remove(&path, &name, there),
            11 | 12 => self.rename(&path, &name),
            13 if self.random.below(4) == 0 => self.fs.commit().unwrap(),
            14 => assert_eq!(self.fs.lookup(dir, name.as_bytes()), there.map(|n| n.ino()).ok_or(Error::NotFound)),
            _ => {
                let expected: Vec<String> = children(self.at(&path)).keys().cloned().collect();
                let found: Vec<String> = names(&self.fs, dir).into_iter().filter(|n| n != "lost+found").collect();
                assert_eq!(found, expected);
            }
        }
    }

    fn change_file(&mut self, path: &[String], name: &str) {
        let (kind, at, len, seed) = (self.random.below(8), self.random.below(100_000), 1 + self.random.below(30_000), self.random.next());
        let fs = self.fs.clone();
        let Some(Node::File { ino, data }) = children(self.at(path)).get_mut(name) else { return };
        let end = (at + len) as usize;
        match kind {
            0..=3 => {
                let mut random = Random::new(seed);
                let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                match fs.write(*ino, at, &bytes, NOW, Claim::Ordinary) {
                    Ok(count) => {
                        let end = at as usize + count;
                        data.resize(data.len().max(end), 0);
                        data[at as usize..end].copy_from_slice(&bytes[..count]);
                    }
                    Err(error) => assert_eq!(error, Error::NoSpace),
                }
            }
            4 => {
                fs.truncate(*ino, at, NOW).unwrap();
                data.resize(at as usize, 0);
            }
            5 => {
                fs.fallocate(*ino, at, len, Fallocate::PunchHole, NOW, Claim::Ordinary).unwrap();
                let end = end.min(data.len());
                data.get_mut(at as usize..end).into_iter().for_each(|part| part.fill(0));
            }
            6 => match fs.fallocate(*ino, at, len, Fallocate::ZeroRange, NOW, Claim::Ordinary) {
                Ok(()) => {
                    data.resize(data.len().max(end), 0);
                    data[at as usize..end].fill(0);
                }
                Err(error) => assert!(matches!(error, Error::NotSupported | Error::NoSpace), "{error}"),
            },
            _ => {
                let mode = if seed % 2 == 0 { Fallocate::KeepSize } else { Fallocate::Extend };
                match fs.fallocate(*ino, at, len, mode, NOW, Claim::Ordinary) {
                    Ok(()) if mode == Fallocate::Extend => data.resize(data.len().max(end), 0),
                    Ok(()) => {}
                    Err(error) => assert!(matches!(error, Error::NotSupported | Error::NoSpace), "{error}"),
                }
            }
        }
        if seed % 3 == 0 {
            assert!(read_all(&fs, *ino) == *data, "step {}: {name}", self.step);
        }
    }

    fn remove(&mut self, path: &[String], name: &str, there: Option<Node>) {
        let dir = self.at(path).ino();
        match there {
            None => assert_eq!(self.fs.unlink(dir, name.as_bytes(), NOW), Err(Error::NotFound)),
            Some(Node::File { ino, .. }) => {
                assert_eq!(self.fs.unlink(dir, name.as_bytes(), NOW), Ok(Some(ino)));
                self.fs.evict(ino).unwrap();
                children(self.at(path)).remove(name);
            }
            Some(Node::Dir { ino, children: inside }) => {
                let removed = self.fs.remove_dir(dir, name.as_bytes(), NOW);
                if inside.is_empty() {
                    assert_eq!(removed, Ok(ino));
                    self.fs.evict(ino).unwrap();
                    children(self.at(path)).remove(name);
                } else {
                    assert_eq!(removed, Err(Error::NotEmpty));
                }
            }
        }
    }

    fn rename(&mut self, path: &[String], name: &str) {
        let (to_path, to_name) = (self.some_dir(), self.name());
        let (dir, to_dir) = (self.at(path).ino(), self.at(&to_path).ino());
        let (from, to) = (children(self.at(path)).get(name).cloned(), children(self.at(&to_path)).get(&to_name).cloned());
        let result = self.fs.rename((dir, name.as_bytes()), (to_dir, to_name.as_bytes()), RenameMode::Replace, NOW);
        let Some(from) = from else {
            assert_eq!(result, Err(Error::NotFound));
            return;
        };
        let inside = from.is_dir() && to_path.len() > path.len() && to_path.starts_with(path) && to_path[path.len()] == name;
        let same = to.as_ref().is_some_and(|to| to.ino() == from.ino());
        let expected = match &to {
            _ if inside => Err(Error::Invalid),
            _ if same => return assert_eq!(result, Ok(None)),
            Some(Node::File { .. }) if from.is_dir() => Err(Error::NotDirectory),
            Some(Node::Dir { .. }) if !from.is_dir() => Err(Error::IsDirectory),
            Some(Node::Dir { children, .. }) if !children.is_empty() => Err(Error::NotEmpty),
            Some(replaced) => Ok(Some(replaced.ino())),
            None => Ok(None),
        };
        assert_eq!(result, expected, "step {}: {path:?}/{name} to {to_path:?}/{to_name}", self.step);
        if let Ok(gone) = result {
            if let Some(ino) = gone {
                self.fs.evict(ino).unwrap();
            }
            children(self.at(path)).remove(name);
            children(self.at(&to_path)).insert(to_name, from);
        }
    }
}

fn compare(fs: &Filesystem, node: &Node, path: &str) {
    match node {
        Node::File { ino, data } => assert!(read_all(fs, *ino) == *data, "{path}"),
        Node::Dir { ino, children } => {
            let found: Vec<String> = names(fs, *ino).into_iter().filter(|n| n != "lost+found").collect();
            assert_eq!(found, children.keys().cloned().collect::<Vec<_>>(), "{path}");
            let subdirs = children.values().filter(|n| n.is_dir()).count() + usize::from(path.is_empty());
            assert_eq!(usize::from(fs.attributes(*ino).unwrap().links), 2 + subdirs, "{path}");
            for (name, child) in children {
                assert_eq!(fs.lookup(*ino, name.as_bytes()), Ok(child.ino()));
                compare(fs, child, &format!("{path}/{name}"));
            }
        }
    }
}

#[test]
fn random_operations_do_what_the_model_does() {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        for seed in 0..scale() {
            let device = disk(make_image(args, 20 * 1024, None));
            let mut world = World {
                fs: mount(&device),
                root: Node::Dir { ino: ROOT_INODE, children: BTreeMap::new() },
                random: Random::new(seed),
                step: 0,
            };
            for round in 0..4 {
                for _ in 0..300 {
                    world.step();
                }
                let what = format!("{kind}, seed {seed}, round {round}");
                compare(&world.fs, &world.root, "");
                world.fs.drop_caches();
                match round % 2 {
                    0 => world.fs.unmount().unwrap(),
                    // A crash after sync.
                    _ => world.fs.commit().unwrap(),
                }
                if round % 2 == 0 {
                    assert_clean(&device.image(), &what);
                }
                world.fs = mount(&device);
                compare(&world.fs, &world.root, "");
            }
            world.fs.unmount().unwrap();
            assert_clean(&device.image(), kind);
        }
    }
}
