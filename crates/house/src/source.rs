//! Rust source as the counting tests see it: code apart from comments and from what strings hold, and shipped code apart from tests.
//!
//! Not a parser: it knows comments, string and character literals, lifetimes, and that `#[cfg(test)]` is followed by an item in braces or by
//! `;`. Lines keep their numbers.

/// Source with everything that isn't code blanked out, and the other way around.
pub struct Source {
    /// The code: comments and the insides of strings are spaces.
    pub code: String,
    /// The comments: all else is spaces.
    pub comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Text { hashes: usize, raw: bool },
}

impl Source {
    /// Takes source apart.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let all: Vec<char> = text.chars().collect();
        let (mut code, mut comments) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
        let mut state = State::Code;
        let mut at = 0;
        while let Some(&c) = all.get(at) {
            let rest = &all[at..];
            let (taken, next) = step(state, rest, at.checked_sub(1).map(|before| all[before]));
            let in_comment = matches!(state, State::LineComment | State::BlockComment { .. })
                || matches!(next, State::LineComment | State::BlockComment { .. });
            let is_code = state == State::Code && next == State::Code && !is_character(rest);
            for &c in &rest[..taken] {
                code.push(if is_code || c == '\n' { c } else { ' ' });
                comments.push(if in_comment || c == '\n' { c } else { ' ' });
            }
            debug_assert!(taken > 0, "no progress at {c:?}");
            state = next;
            at += taken;
        }
        Self { code, comments }
    }

    /// The code without items under `#[cfg(test)]`, which become blank lines.
    #[must_use]
    pub fn shipped(&self) -> String {
        let mut left = self.code.clone();
        while let Some(start) = left.find("#[cfg(test)]") {
            let end = end_of_item(&left[start..]).map_or(left.len(), |length| start + length);
            let blank: String = left[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            left.replace_range(start..end, &blank);
        }
        left
    }
}

/// How many characters go together from here, and what state follows.
fn step(state: State, rest: &[char], before: Option<char>) -> (usize, State) {
    let begins = |text: &str| text.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    match state {
        State::Code if begins("//") => (2, State::LineComment),
        State::Code if begins("/*") => (2, State::BlockComment { depth: 1 }),
        State::Code if begins("\"") => (1, State::Text { hashes: 0, raw: false }),
        State::Code if rest[0] == 'r' && !before.is_some_and(|c| c.is_alphanumeric() && c != 'b' && c != 'c' || c == '_') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) == Some(&'"') { (hashes + 2, State::Text { hashes, raw: true }) } else { (1, State::Code) }
        }
        State::Code if is_character(rest) => {
            let skip = if rest.get(1) == Some(&'\\') { 3 } else { 2 };
            let close = rest.iter().skip(skip).position(|c| *c == '\'').map_or(rest.len(), |i| i + skip + 1);
            (close, State::Code)
        }
        State::LineComment if rest[0] == '\n' => (1, State::Code),
        State::BlockComment { depth } if begins("/*") => (2, State::BlockComment { depth: depth + 1 }),
        State::BlockComment { depth: 1 } if begins("*/") => (2, State::Code),
        State::BlockComment { depth } if begins("*/") => (2, State::BlockComment { depth: depth - 1 }),
        State::Text { raw: false, .. } if rest[0] == '\\' => (rest.len().min(2), state),
        State::Text { hashes, .. } if rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes => {
            (1 + hashes, State::Code)
        }
        state => (1, state),
    }
}

/// Whether a character literal begins here; the other use of a single quote is a lifetime.
fn is_character(rest: &[char]) -> bool {
    rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\''))
}

/// The length of the item that an attribute stands before: to its closing brace, or to a semicolon before any brace.
fn end_of_item(code: &str) -> Option<usize> {
    let mut depth = 0usize;
    // The attribute's own brackets come first.
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(at + 1),
            '}' => depth -= 1,
            ';' if depth == 0 => return Some(at + 1),
            _ => (),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_comments_and_lifetimes_are_told_apart() {
        let source = Source::new(
            "let a = \"unsafe\"; // unsafe\nfn f<'a>(c: char) { c == '\"' || c == '\\''; r#\"unsafe \"x\"\"#; /* a /* unsafe */ b */ g() }",
        );
        assert!(!source.code.contains("unsafe"));
        assert!(source.code.contains("fn f<'a>(c: char)"));
        assert!(source.code.contains("g() }"));
        assert_eq!(source.comments.matches("unsafe").count(), 2);
    }

    #[test]
    fn items_under_cfg_test_are_not_shipped_and_lines_keep_their_numbers() {
        let source =
            Source::new("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { x.unwrap() }\n}\n#[cfg(test)]\nmod more;\nfn c() {}\n");
        let shipped = source.shipped();
        assert!(shipped.contains("fn a") && shipped.contains("fn c") && !shipped.contains("fn b") && !shipped.contains("more"));
        assert_eq!(shipped.lines().count(), 8);
    }
}
