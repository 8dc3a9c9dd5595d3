//! Draws a made-up report, to see what every figure and the page look like.
//!
//! `cargo run -p plots --example sample -- FOLDER` draws one run; with a second argument, any, two runs overlaid.

mod report;

use std::path::PathBuf;

fn main() -> Result<(), plots::PlotError> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "sample-report".to_owned()));
    let mut reports = vec![("sample".to_owned(), report::sample(1))];
    if arguments.next().is_some() {
        reports.push(("again".to_owned(), report::sample(2)));
    }
    let rendered = plots::render(&reports, &folder)?;
    println!("{} files of figures, {}", rendered.figures.len(), rendered.html.display());
    Ok(())
}
