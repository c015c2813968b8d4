//! The characters that a person does not see, or that a terminal obeys. Whoever shows text of an agent escapes them, and
//! no value of a policy has one in it: this is the one table for both.

/// Whether a character is hidden: Unicode's controls (Cc), format characters (Cf), line and paragraph separators (Zl, Zp),
/// and all that are ignored where they are shown (Default_Ignorable_Code_Point, with what is reserved for more of them).
#[must_use]
pub fn is_hidden(character: char) -> bool {
    match character {
        '\0'..='\u{1f}' | '\u{7f}' => true,
        ' '..='~' => false,
        _ => matches!(
            u32::from(character),
            0x80..=0x9f | 0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2
            | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
            | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb
            | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
            | 0xe0000..=0xe0fff
        ),
    }
}

/// The text with every hidden character as an escape, such as `\u{202e}`, but for those in `keep`.
#[must_use]
pub fn escaped(text: &str, keep: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) && !keep.contains(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{escaped, is_hidden};
    use regex_syntax::hir::{Class, HirKind};

    /// Of another implementation of Unicode, which knows its classes by name.
    #[test]
    fn hidden_characters_match_the_unicode_tables() {
        let classes = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let parsed = regex_syntax::parse(classes).unwrap();
        let HirKind::Class(Class::Unicode(class)) = parsed.kind() else {
            panic!("{parsed:?}");
        };
        let ranges = class.ranges();
        for character in '\0'..=char::MAX {
            let known = ranges
                .iter()
                .any(|range| (range.start()..=range.end()).contains(&character));
            assert_eq!(is_hidden(character), known, "{:x}", u32::from(character));
        }
    }

    #[test]
    fn hidden_characters_are_escaped() {
        let hostile = "a\u{1b}[2J\u{61c}\u{200b}\u{feff}\u{206a}\u{e0041}\n\t'\\ä";
        assert_eq!(
            escaped(hostile, &['\n', '\t']),
            "a\\u{1b}[2J\\u{61c}\\u{200b}\\u{feff}\\u{206a}\\u{e0041}\n\t'\\ä"
        );
        assert!(!escaped(hostile, &[]).contains(is_hidden));
    }
}
