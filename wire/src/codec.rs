//! The strict codec: the only place that calls postcard.
//!
//! postcard alone is lenient: it ignores what follows a message, reserves what a length claims, and accepts overlong
//! varints. Here a datagram is accepted only if it is, byte for byte, what [`encode`] would have made of the result.

use crate::limits::{ARGUMENTS, DATAGRAM, ENVIRONMENT, VERSION};
use crate::{Body, Reason, Request};
use postcard::ser_flavors::Flavor;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::ser::Serialize;
use std::fmt;

/// The first bytes of every datagram, the version last.
const HEADER: [u8; 3] = [b'P', b'C', VERSION];

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There was nothing.
    #[error("the datagram is empty")]
    Empty,
    /// It does not begin as a message does.
    #[error("the datagram does not begin with the bytes 'P', 'C' and a version")]
    Header,
    /// It is of another version.
    #[error("the datagram is of protocol version {0}; version {VERSION} is spoken here")]
    Version(u8),
    /// It does not decode, or is not in its one canonical form.
    #[error(
        "the datagram is not one whole message: it is cut short, overlong, not UTF-8, or followed by more"
    )]
    Body,
    /// A text has a NUL in it, or an entry has no name.
    #[error("{0}")]
    Text(&'static str),
    /// Over a limit.
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The most there may be.
        limit: usize,
    },
}

impl DecodeError {
    /// The reason code that the sender is told.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Empty | Self::Header | Self::Body | Self::Text(_) => Reason::Malformed,
            Self::Version(_) => Reason::UnsupportedVersion,
            Self::TooLarge { .. } => Reason::TooLarge,
        }
    }
}

/// A message that did not fit, or could not be written at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message would be larger than {DATAGRAM} bytes")]
pub struct EncodeError;

/// Encodes one message, header first.
///
/// # Errors
/// [`EncodeError`] when it would not fit into a datagram.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let bytes = encode_unbounded(message)?;
    if bytes.len() > DATAGRAM {
        Err(EncodeError)
    } else {
        Ok(bytes)
    }
}

/// Encodes what does not travel in one datagram between strangers: an order with a whole request in it, or a policy.
///
/// # Errors
/// [`EncodeError`] when the type cannot be written, which no type of this crate is.
pub fn encode_unbounded<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    postcard::to_extend(message, HEADER.to_vec()).map_err(|_| EncodeError)
}

/// Decodes one request from a stranger, with all limits.
///
/// # Errors
/// [`DecodeError`], whose [`reason`](DecodeError::reason) is for the sender.
pub fn decode_request(datagram: &[u8]) -> Result<Request, DecodeError> {
    if datagram.len() > DATAGRAM {
        return Err(DecodeError::TooLarge {
            what: "bytes in the datagram",
            limit: DATAGRAM,
        });
    }
    let body = without_header(datagram)?;
    let (request, rest): (Request, _) =
        postcard::take_from_bytes(body).map_err(|_| DecodeError::Body)?;
    check_limits(&request)?;
    check_canonical(&request, body, rest)?;
    check_texts(&request)?;
    Ok(request)
}

/// Decodes any other message: a reply, an order, a directive, a policy. Canonical form is demanded here too.
///
/// # Errors
/// [`DecodeError`].
pub fn decode<'a, T: Serialize + Deserialize<'a>>(datagram: &'a [u8]) -> Result<T, DecodeError> {
    let body = without_header(datagram)?;
    let (message, rest) = postcard::take_from_bytes(body).map_err(|_| DecodeError::Body)?;
    check_canonical(&message, body, rest)?;
    Ok(message)
}

/// [`decode`] for types that own their content, where the bytes are let go of at once.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_owned<T: Serialize + DeserializeOwned>(datagram: &[u8]) -> Result<T, DecodeError> {
    decode(datagram)
}

fn without_header(datagram: &[u8]) -> Result<&[u8], DecodeError> {
    match datagram {
        [] => Err(DecodeError::Empty),
        [b'P', b'C', VERSION, body @ ..] => Ok(body),
        [b'P', b'C', other, ..] => Err(DecodeError::Version(*other)),
        _ => Err(DecodeError::Header),
    }
}

fn check_limits(request: &Request) -> Result<(), DecodeError> {
    let Body::Launch(launch) = &request.body else {
        return Ok(());
    };
    if launch.args.len() > ARGUMENTS {
        return Err(DecodeError::TooLarge {
            what: "arguments",
            limit: ARGUMENTS,
        });
    }
    if launch.env.len() > ENVIRONMENT {
        return Err(DecodeError::TooLarge {
            what: "environment entries",
            limit: ENVIRONMENT,
        });
    }
    Ok(())
}

fn check_texts(request: &Request) -> Result<(), DecodeError> {
    if request.id == 0 {
        return Err(DecodeError::Text("a request's id is not 0"));
    }
    let nul = |text: &str| text.as_bytes().contains(&0);
    let has_nul = match &request.body {
        Body::Ping | Body::Metrics => false,
        Body::Launch(launch) => {
            if launch.command.is_empty() {
                return Err(DecodeError::Text("the command is empty"));
            }
            if launch
                .env
                .iter()
                .any(|entry| !matches!(entry.find('='), Some(1..)))
            {
                return Err(DecodeError::Text(
                    "an environment entry is not of the form NAME=value",
                ));
            }
            nul(&launch.command)
                || launch.args.iter().any(|a| nul(a))
                || launch.env.iter().any(|e| nul(e))
                || launch.netns.as_deref().is_some_and(nul)
                || launch.image.as_deref().is_some_and(nul)
        }
        Body::Signal { target, .. }
        | Body::Stop { target, .. }
        | Body::Logs { target, .. }
        | Body::Wait { target } => target.texts().into_iter().any(nul),
        Body::List { after, .. } => after.as_deref().is_some_and(nul),
    };
    if has_nul {
        Err(DecodeError::Text("a text has a NUL byte in it"))
    } else {
        Ok(())
    }
}

/// The strictness: writing the message again must give the very bytes that were read.
fn check_canonical<T: Serialize>(message: &T, body: &[u8], rest: &[u8]) -> Result<(), DecodeError> {
    if !rest.is_empty() {
        return Err(DecodeError::Body);
    }
    match postcard::serialize_with_flavor(message, Compare { left: body }) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(DecodeError::Body),
    }
}

/// A place to write to that only compares: no second copy of the message is made.
struct Compare<'a> {
    left: &'a [u8],
}

impl Flavor for Compare<'_> {
    type Output = bool;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        match self.left.strip_prefix(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(postcard::Error::SerializeBufferFull),
        }
    }

    fn finalize(self) -> postcard::Result<bool> {
        Ok(self.left.is_empty())
    }
}

/// Reads a list of texts, keeping at most `MAX` + 1: the surplus is walked over, not stored, so that the caller can
/// tell "too many" from "malformed" without room for what was claimed.
pub(crate) fn bounded<'de, D: Deserializer<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    struct Texts<const MAX: usize>;
    impl<'de, const MAX: usize> Visitor<'de> for Texts<MAX> {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} texts")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut kept = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(64));
            while let Some(text) = seq.next_element::<&str>()? {
                if kept.len() <= MAX {
                    kept.push(text.to_owned());
                }
            }
            Ok(kept)
        }
    }
    deserializer.deserialize_seq(Texts::<MAX>)
}
