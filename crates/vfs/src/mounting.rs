//! The operations that change the mount tree.

use crate::mount::Mount;
use std::sync::Arc;

/// Takes a tree of mounts apart, so that its mounts live only as long as somebody uses them.
pub(crate) fn dissolve(top: &Arc<Mount>) {
    let mut stack = vec![top.clone()];
    while let Some(mount) = stack.pop() {
        let children = std::mem::take(&mut *mount.children.lock());
        stack.extend(children.into_values());
        let place = std::mem::take(&mut *mount.place.lock());
        if let Some(at) = &place.at {
            at.dentry.count_mount(false);
        }
    }
}
