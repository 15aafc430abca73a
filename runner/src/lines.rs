//! Cuts a stream of bytes into lines, with a limit on what it keeps. It knows nothing of where bytes come from
//! or what time it is.

/// The longest piece of a line that is delivered at once; what is longer comes in pieces of this size.
pub const LONGEST_LINE: usize = 64 << 10;

/// The part of a line that has been read so far.
#[derive(Default)]
pub(crate) struct LineCutter {
    partial: Vec<u8>,
}

impl LineCutter {
    /// Takes `bytes` and hands every line that ends in them to `deliver`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], deliver: &mut dyn FnMut(Vec<u8>)) {
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.partial.len();
            let newline = bytes.iter().take(room + 1).position(|&byte| byte == b'\n');
            if let Some(at) = newline {
                self.partial.extend_from_slice(&bytes[..at]);
                deliver(std::mem::take(&mut self.partial));
                bytes = &bytes[at + 1..];
            } else if bytes.len() > room {
                self.partial.extend_from_slice(&bytes[..room]);
                deliver(std::mem::take(&mut self.partial));
                bytes = &bytes[room..];
            } else {
                self.partial.extend_from_slice(bytes);
                return;
            }
        }
    }

    /// Hands over what is left when the stream ends without a newline.
    pub(crate) fn finish(&mut self, deliver: &mut dyn FnMut(Vec<u8>)) {
        if !self.partial.is_empty() {
            deliver(std::mem::take(&mut self.partial));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expect: &[&[u8]]) {
        let mut cutter = LineCutter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, &mut |line| lines.push(line));
        }
        cutter.finish(&mut |line| lines.push(line));
        assert_eq!(lines, expect);
    }

    #[test]
    fn lines_are_cut_at_newlines_wherever_the_reads_end() {
        check(&[b"one\ntw", b"o\n", b"\nlast"], &[b"one", b"two", b"", b"last"]);
        check(&[b""], &[]);
        check(&[b"\n"], &[b""]);
    }

    #[test]
    fn a_line_over_the_limit_comes_in_pieces() {
        let long = vec![b'x'; LONGEST_LINE + 3];
        check(&[&long, b"\ny"], &[&long[..LONGEST_LINE], b"xxx", b"y"]);
        check(&[&long[..LONGEST_LINE], b"\ny"], &[&long[..LONGEST_LINE], b"y"]);
    }
}
