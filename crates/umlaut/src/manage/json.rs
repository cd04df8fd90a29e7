//! As much of JSON as the front end prints: objects of texts and numbers. RFC 8259.

use std::fmt::Write as _;

/// A value.
pub enum Json {
    Text(String),
    Number(u64),
    Boolean(bool),
    Object(Vec<(&'static str, Json)>),
    List(Vec<Json>),
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Json::Text(text) => {
                f.write_char('"')?;
                for c in text.chars() {
                    match c {
                        '"' => f.write_str("\\\"")?,
                        '\\' => f.write_str("\\\\")?,
                        '\n' => f.write_str("\\n")?,
                        '\t' => f.write_str("\\t")?,
                        c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
                        c => f.write_char(c)?,
                    }
                }
                f.write_char('"')
            }
            Json::Number(number) => write!(f, "{number}"),
            Json::Boolean(value) => write!(f, "{value}"),
            Json::Object(members) => {
                f.write_char('{')?;
                for (i, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}\"{name}\":{value}", if i == 0 { "" } else { "," })?;
                }
                f.write_char('}')
            }
            Json::List(values) => {
                f.write_char('[')?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { "," })?;
                }
                f.write_char(']')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_objects_have_their_commas() {
        let value = Json::Object(vec![
            ("name", Json::Text("a\"b\\c\n\u{1}ü".into())),
            ("pids", Json::List(vec![Json::Number(1), Json::Boolean(true)])),
        ]);
        assert_eq!(value.to_string(), "{\"name\":\"a\\\"b\\\\c\\n\\u0001ü\",\"pids\":[1,true]}");
    }
}
