//! From tokens to text that may be shown: whole characters only, and nothing of a stop string.
//!
//! Tokens are byte strings; a character may be spread over several. [`Text`] gives what is complete and holds back the rest.
//! Of that, [`Stops`] holds back what may become a stop string, and ends where one does.

use crate::{Error, Result};

/// Text of tokens that come one by one.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    tokens: Vec<u32>,
    /// Tokens from here on are decoded together: the first of a text may be decoded differently (a blank in front is dropped), so
    /// some that are long shown stay in.
    start: usize,
    /// Tokens up to here are shown.
    shown: usize,
}

impl Text {
    /// The text that `token` completes; empty while a character is cut in two.
    pub fn push(
        &mut self,
        token: u32,
        decode: &dyn Fn(&[u32]) -> Result<String>,
    ) -> Result<String> {
        self.tokens.push(token);
        self.ready(decode, |text| !text.ends_with('\u{fffd}'))
    }

    /// What is left, with U+FFFD for what never became a character.
    pub fn finish(&mut self, decode: &dyn Fn(&[u32]) -> Result<String>) -> Result<String> {
        self.ready(decode, |_| true)
    }

    /// Text beyond what is shown, if it is ready.
    fn ready(
        &mut self,
        decode: &dyn Fn(&[u32]) -> Result<String>,
        is_ready: fn(&str) -> bool,
    ) -> Result<String> {
        let before = decode(&self.tokens[self.start..self.shown])?;
        let now = decode(&self.tokens[self.start..])?;
        match now.strip_prefix(&before) {
            Some(new) if !new.is_empty() && is_ready(new) => {
                self.start = self.shown;
                self.shown = self.tokens.len();
                Ok(new.to_owned())
            }
            _ => Ok(String::new()),
        }
    }
}

/// Looks for stop strings in a text that comes in pieces.
#[derive(Debug, Clone)]
pub(super) struct Stops {
    stops: Vec<String>,
    /// What may be the beginning of a stop string.
    held: String,
}

impl Stops {
    /// Stops at any of these.
    pub fn new(stops: &[String]) -> Result<Stops> {
        match stops.iter().any(String::is_empty) {
            true => Err(Error::argument(
                "stop",
                "at least one character",
                "an empty text",
            )),
            false => Ok(Stops {
                stops: stops.to_vec(),
                held: String::new(),
            }),
        }
    }

    /// What can be shown now that `text` has come, and the stop string that it ends at: the one that is complete first (of those
    /// complete at once, the longest), however the text is cut into pieces.
    pub fn push(&mut self, text: &str) -> (String, Option<String>) {
        self.held += text;
        let found = self.stops.iter().filter_map(|stop| {
            let at = self.held.find(stop.as_str())?;
            Some((at + stop.len(), at, stop))
        });
        if let Some((_, at, stop)) = found.min() {
            let stop = stop.clone();
            let shown = self.held[..at].to_owned();
            self.held.clear();
            return (shown, Some(stop));
        }
        let might_stop = |at: &usize| {
            let rest = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(rest))
        };
        let places = self.held.char_indices().map(|(at, _)| at);
        let held_from = places
            .into_iter()
            .find(might_stop)
            .unwrap_or(self.held.len());
        let held = self.held.split_off(held_from);
        (std::mem::replace(&mut self.held, held), None)
    }

    /// What was held back, when nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are bytes.
    fn decode(tokens: &[u32]) -> Result<String> {
        let bytes: Vec<u8> = tokens.iter().map(|&it| it as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn pieces(bytes: &[u8]) -> Vec<String> {
        let mut text = Text::default();
        let mut pieces: Vec<String> = (bytes.iter())
            .map(|&byte| text.push(u32::from(byte), &decode).unwrap())
            .collect();
        pieces.push(text.finish(&decode).unwrap());
        pieces
    }

    #[test]
    fn a_character_is_shown_when_it_is_whole() {
        assert_eq!(
            pieces("aé🦀b".as_bytes()),
            ["a", "", "é", "", "", "", "🦀", "b", ""]
        );
        assert_eq!(pieces("日本".as_bytes()).concat(), "日本");
        assert_eq!(pieces(b"").concat(), "");
        // What never becomes a character is shown as such, once it is certain.
        assert_eq!(pieces(b"a\xf0\x9fb"), ["a", "", "", "\u{fffd}b", ""]);
        assert_eq!(pieces(b"\xf0\x9f").concat(), "\u{fffd}");
        // A replacement character that was meant is no broken one.
        assert_eq!(pieces("x\u{fffd}y".as_bytes()).concat(), "x\u{fffd}y");
    }

    #[test]
    fn tokens_that_depend_on_their_place_are_decoded_in_it() {
        // As sentencepiece does: a blank in front of each word but the first.
        let decode = |tokens: &[u32]| -> Result<String> {
            let words: Vec<String> = tokens.iter().map(|it| format!("w{it}")).collect();
            Ok(words.join(" "))
        };
        let mut text = Text::default();
        let shown: Vec<String> = (1..=4).map(|it| text.push(it, &decode).unwrap()).collect();
        assert_eq!(shown.concat(), "w1 w2 w3 w4");
    }

    /// Shown text and stop, for a text cut into pieces of `size` characters.
    fn stopped(text: &str, size: usize, stops: &[&str]) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|it| (*it).to_owned()).collect();
        let mut stops = Stops::new(&stops).unwrap();
        let mut shown = String::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(size) {
            let (more, stop) = stops.push(&piece.iter().collect::<String>());
            shown += &more;
            if stop.is_some() {
                return (shown, stop);
            }
        }
        (shown + &stops.finish(), None)
    }

    #[test]
    fn stops_are_found_across_pieces_and_nothing_before_them_is_lost() {
        for size in 1..9 {
            let found = |text, stops: &[&str]| stopped(text, size, stops);
            let at = |text: &str, stop: &str| (text.to_owned(), Some(stop.to_owned()));
            assert_eq!(found("hello world", &["o w"]), at("hell", "o w"));
            assert_eq!(found("aaab", &["aab"]), at("a", "aab"));
            assert_eq!(
                found("say \n\nUser: x", &["\n\nUser:"]),
                at("say ", "\n\nUser:")
            );
            assert_eq!(
                found("no stop here", &["stopp", "x"]),
                ("no stop here".to_owned(), None)
            );
            assert_eq!(
                found("ends in sto", &["stop"]),
                ("ends in sto".to_owned(), None)
            );
            assert_eq!(found("日本語。x", &["語。"]), at("日本", "語。"));
            // The one complete first, and of two complete at once the longer.
            assert_eq!(found("xabcd", &["abcd", "b"]), at("xa", "b"));
            assert_eq!(found("xabc", &["bc", "abc"]), at("x", "abc"));
            assert_eq!(found("", &["a"]), (String::new(), None));
            assert_eq!(found("anything", &[]), ("anything".to_owned(), None));
        }
        assert!(Stops::new(&[String::new()]).is_err());
    }

    #[test]
    fn what_cannot_become_a_stop_is_shown_at_once() {
        let mut stops = Stops::new(&["</end>".to_owned()]).unwrap();
        assert_eq!(stops.push("a <"), ("a ".to_owned(), None));
        assert_eq!(stops.push("/b"), ("</b".to_owned(), None));
    }
}
