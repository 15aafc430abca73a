//! The ports of EXPOSE. It does not know variables.

use std::net::IpAddr;

/// A port or a range of ports as written: `[[ip:]host:]port[-port][/protocol]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    /// `port/protocol` each.
    pub ports: Vec<String>,
    /// Whether an address or a port of the host was given, which counts for nothing.
    pub has_host: bool,
    /// Whether the protocol is not in lower case.
    pub has_upper_case: bool,
}

/// Reads one word of EXPOSE.
pub(crate) fn exposed(word: &str) -> Result<Exposed, String> {
    let mut parts = word.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host_port = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: {word:?}: no port specified"));
    }
    let lower = protocol.to_lowercase();
    let lower = if lower.is_empty() { "tcp" } else { lower.as_str() };
    if !["tcp", "udp", "sctp"].contains(&lower) {
        return Err(format!("invalid port: {word:?}: invalid proto: {protocol}"));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (first, last) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host_port.is_empty() {
        let (from, to) = range(host_port).ok_or_else(|| format!("invalid hostPort: {host_port}"))?;
        if last - first != to - from && first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {port} and {host_port}"
            ));
        }
    }
    Ok(Exposed {
        ports: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        has_host: !address.is_empty() || !host_port.is_empty(),
        has_upper_case: protocol.chars().any(char::is_uppercase),
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let ports = |word| exposed(word).map(|e| e.ports.join(" "));
        for (word, expect) in [
            ("80", "80/tcp"),
            ("7-8/UDP", "7/udp 8/udp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:5000:5001/udp", "5001/udp"),
            ("[::1]:1:2", "2/tcp"),
            ("1-3:9", "9/tcp"),
        ] {
            assert_eq!(ports(word), Ok(expect.to_owned()), "{word}");
        }
        for word in ["90-80", "http", "65536", "", "/tcp", "80/xyz", "host:1:2", "1-2:1-3", "-1"] {
            assert!(ports(word).is_err(), "{word}");
        }
    }
}
