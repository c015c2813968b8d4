//! One JSON object, written by hand: a few fields do not need a library in a binary that is to stay small.

use portcullis_wire::hidden::is_hidden;

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    /// Begins one whose first field is `"answer"`.
    pub(crate) fn answer(kind: &str) -> Self {
        Self("{".to_owned()).text("answer", kind)
    }

    /// Adds a text.
    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        self.string(value);
        self
    }

    /// Adds a text, or null.
    pub(crate) fn optional_text(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self.bare(key, "null"),
        }
    }

    /// Adds texts.
    pub(crate) fn texts(mut self, key: &str, values: &[String]) -> Self {
        self.key(key);
        self.0.push('[');
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.0.push(',');
            }
            self.string(value);
        }
        self.0.push(']');
        self
    }

    /// Adds a number.
    pub(crate) fn number(self, key: &str, value: u32) -> Self {
        self.bare(key, &value.to_string())
    }

    /// Adds a number, or null.
    pub(crate) fn optional_number(self, key: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.bare(key, &value.to_string()),
            None => self.bare(key, "null"),
        }
    }

    /// Adds a truth.
    pub(crate) fn truth(self, key: &str, value: bool) -> Self {
        self.bare(key, if value { "true" } else { "false" })
    }

    /// Adds what is JSON already.
    pub(crate) fn bare(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        self.0.push_str(value);
        self
    }

    /// Ends it, and the line.
    pub(crate) fn line(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.string(key);
        self.0.push(':');
    }

    fn string(&mut self, text: &str) {
        self.0.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                // JSON may come to a terminal, too, and needs no escape of most of these.
                c if is_hidden(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.0.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::{Object, is_hidden};

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        let odd = "\"\\\n\t\u{0}\u{1b}\u{7f}\u{9b}\u{61c}\u{e0041}ä😀";
        let line = Object::answer("pong")
            .text("odd", odd)
            .optional_text("none", None)
            .texts("list", &["a".into(), odd.into()])
            .number("n", u32::MAX)
            .optional_number("large", Some(u64::MAX))
            .optional_number("no", None)
            .truth("t", true)
            .line();
        assert!(line.ends_with("}\n") && !line.trim_end().contains(is_hidden));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["odd"], odd);
        assert_eq!(read["list"][1], odd);
        assert_eq!(read["none"], serde_json::Value::Null);
        assert_eq!(read["n"], u32::MAX);
        assert_eq!(read["large"], u64::MAX);
        assert_eq!(read["no"], serde_json::Value::Null);
        assert_eq!(read["t"], true);
    }
}
