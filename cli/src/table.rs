//! Rows as columns that line up, as people read lists. It does not know what the rows say.

/// Each row as a line, each cell as wide as the widest of its column; what a row has none of is left out.
pub(crate) fn table<Row: AsRef<[String]>>(rows: &[Row]) -> String {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let chars = |row: &Row, column: usize| row.as_ref().get(column).map_or(0, |cell| cell.chars().count());
    let width = |column| rows.iter().map(|row| chars(row, column)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.as_ref().iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_line_up_whatever_their_letters() {
        let rows = [["A", "SIZE"], ["größe", "1"], ["x", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A       SIZE\ngröße   1\nx\n");
        assert_eq!(table::<[String; 2]>(&[]), "");
    }
}
