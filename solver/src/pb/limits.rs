//! How much is read: a message of two bytes takes hundreds in memory, so that fields are counted before
//! anything is made of them. It does not know what they mean.

use super::PbError;
use prost::decode_length_delimiter;

/// A definition with more bytes is not read. BuildKit's own limit is 16 MiB.
pub const DEFINITION_BYTES_MAX: usize = 64 << 20;
/// A definition with more fields is not read; each step of a Dockerfile has about forty.
const FIELDS_MAX: usize = 500_000;
/// Definitions in definitions, at most; prost has the same limit.
const DEPTH_MAX: u32 = 100;

/// Counts what is outside of the ops.
pub(super) fn check_definition(bytes: &[u8]) -> Result<(), PbError> {
    if bytes.len() > DEFINITION_BYTES_MAX {
        return Err(PbError::TooLarge { bytes: bytes.len() });
    }
    Budget { left: FIELDS_MAX, depth: DEPTH_MAX }.definition(bytes)
}

/// Counts what is in the ops.
pub(super) fn check_ops(ops: &[Vec<u8>]) -> Result<(), PbError> {
    let bytes = ops.iter().fold(0_usize, |sum, op| sum.saturating_add(op.len()));
    if bytes > DEFINITION_BYTES_MAX {
        return Err(PbError::TooLarge { bytes });
    }
    let mut budget = Budget { left: FIELDS_MAX, depth: DEPTH_MAX };
    ops.iter().try_for_each(|op| budget.op(op))
}

/// How many fields may still come.
struct Budget {
    left: usize,
    depth: u32,
}

impl Budget {
    fn definition(&mut self, bytes: &[u8]) -> Result<(), PbError> {
        if self.depth == 0 {
            return Ok(());
        }
        self.depth -= 1;
        self.each(bytes, |budget, tag, inner| match tag {
            // The bytes of an op are counted when it is read.
            1 => Ok(()),
            3 => budget.source(inner),
            _ => budget.below(inner, 2),
        })?;
        self.depth += 1;
        Ok(())
    }

    /// `pb.Source`: locations, and files with definitions of their own.
    fn source(&mut self, bytes: &[u8]) -> Result<(), PbError> {
        self.each(bytes, |budget, tag, inner| match tag {
            2 => budget.each(inner, |budget, tag, inner| match tag {
                3 => budget.definition(inner),
                _ => Ok(()),
            }),
            _ => budget.below(inner, 3),
        })
    }

    fn op(&mut self, bytes: &[u8]) -> Result<(), PbError> {
        self.each(bytes, |budget, tag, inner| match tag {
            5 => budget.each(inner, |budget, tag, inner| match tag {
                3 => budget.definition(inner),
                _ => budget.below(inner, 1),
            }),
            _ => budget.below(inner, 1),
        })
    }

    /// The fields of a message, and of the messages in it.
    fn below(&mut self, bytes: &[u8], depth: u32) -> Result<(), PbError> {
        self.each(bytes, |budget, _, inner| match depth {
            0 => Ok(()),
            _ => budget.below(inner, depth - 1),
        })
    }

    /// Counts the fields of a message and shows those that have bytes. What is no message ends it: the
    /// reader will say so.
    fn each(
        &mut self,
        mut bytes: &[u8],
        mut show: impl FnMut(&mut Budget, u32, &[u8]) -> Result<(), PbError>,
    ) -> Result<(), PbError> {
        while let Some(Field { tag, inner, rest }) = first_field(bytes) {
            self.left = self.left.checked_sub(1).ok_or(PbError::TooManyFields { max: FIELDS_MAX })?;
            bytes = rest;
            if let Some(inner) = inner {
                show(self, tag, inner)?;
            }
        }
        Ok(())
    }
}

/// A field of a message.
struct Field<'b> {
    tag: u32,
    /// Its bytes, if it is made of bytes.
    inner: Option<&'b [u8]>,
    /// What comes after it.
    rest: &'b [u8],
}

fn first_field(mut bytes: &[u8]) -> Option<Field<'_>> {
    let key = decode_length_delimiter(&mut bytes).ok()?;
    let tag = u32::try_from(key >> 3).ok()?;
    let length = match key & 7 {
        // A number of as many bytes as it takes.
        0 => {
            decode_length_delimiter(&mut bytes).ok()?;
            0
        }
        1 => 8,
        2 => decode_length_delimiter(&mut bytes).ok()?,
        5 => 4,
        // The begin and the end of a group, which prost reads over: what is between counts too.
        3 | 4 => 0,
        _ => return None,
    };
    let (inner, rest) = bytes.split_at_checked(length)?;
    Some(Field { tag, inner: (key & 7 == 2).then_some(inner), rest })
}
