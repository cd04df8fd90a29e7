//! The lines of a `Cargo.toml` that the house's tests judge: names of dependencies, by table.
//!
//! Not a TOML parser: it knows tables, and lines of the form `name = ...` or `name.key = ...`. The workspace's manifests are written so.

/// What a manifest depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// Names in `[dependencies]` and `[build-dependencies]`.
    pub normal: Vec<String>,
    /// Names in `[dev-dependencies]`.
    pub dev: Vec<String>,
    /// Names in `[workspace.dependencies]`, each with the rest of its line.
    pub workspace: Vec<(String, String)>,
}

impl Dependencies {
    /// Reads a manifest's text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut table = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                table = name;
            } else if let Some((key, value)) = line.split_once('=') {
                if line.starts_with('#') {
                    continue;
                }
                let name = key.trim().split('.').next().unwrap_or_default().to_owned();
                match table {
                    "dependencies" | "build-dependencies" => found.normal.push(name),
                    "dev-dependencies" => found.dev.push(name),
                    "workspace.dependencies" => found.workspace.push((name, value.trim().to_owned())),
                    _ => (),
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_told_apart_and_comments_are_nothing() {
        let found = Dependencies::parse(
            "[package]\nname = \"x\"\n[dependencies]\nabi.workspace = true\n# old = 1\nlibc = { version = \"1\" }\n[dev-dependencies]\nhost.workspace = true\n",
        );
        assert_eq!(found.normal, ["abi", "libc"]);
        assert_eq!(found.dev, ["host"]);
        assert!(found.workspace.is_empty());
    }
}
