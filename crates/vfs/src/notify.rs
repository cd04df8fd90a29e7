//! What inotify(7) hears: the places where path operations say what happened.

use crate::dentry::Dentry;
use crate::names::Renamed;
use crate::path::Path;
use std::sync::Arc;

/// Attributes changed.
pub(crate) fn attributes(_path: &Path) {}
/// Contents changed.
pub(crate) fn modified(_path: &Path) {}
/// A name was made in `dir`.
pub(crate) fn created(_dir: &Path, _dentry: &Arc<Dentry>) {}
/// A name was taken out of `dir`.
pub(crate) fn removed(_dir: &Path, _dentry: &Arc<Dentry>) {}
/// A name moved.
pub(crate) fn renamed(_from: &Path, _to: &Path, _renamed: &Renamed, _old_name: &[u8]) {}
