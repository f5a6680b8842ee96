//! Columns as Go's `text/tabwriter` makes them for Docker: at least 10 wide, 3 apart, the last one free.

const MIN_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Aligns lines whose cells are parted by tabs.
pub fn align(text: &str) -> String {
    align_with(text, MIN_WIDTH, PADDING)
}

/// The same with other measures.
pub fn align_with(text: &str, min_width: usize, padding: usize) -> String {
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    // A column is a run of neighbouring lines that have a closed cell at that place.
    let mut widths = vec![vec![0usize; columns]; rows.len()];
    for column in 0..columns {
        let mut start = 0;
        while start < rows.len() {
            let end = (start..rows.len()).find(|&row| rows[row].len() <= column + 1).unwrap_or(rows.len());
            let widest = rows[start..end].iter().map(|row| row[column].chars().count() + padding).max().unwrap_or(0);
            widths[start..end].iter_mut().for_each(|row| row[column] = widest.max(min_width));
            start = end.max(start + 1);
        }
    }
    let mut out = String::new();
    for (row, widths) in rows.iter().zip(&widths) {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                out.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_dockers() {
        assert_eq!(super::align("DRIVER\tVOLUME NAME\nlocal\tv\n"), "DRIVER    VOLUME NAME\nlocal     v\n");
        assert_eq!(super::align_with("A\tB\nlonger\tx\n", 4, 3), "A        B\nlonger   x\n");
    }
}
