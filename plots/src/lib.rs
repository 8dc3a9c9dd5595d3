//! Figures and one self-contained HTML report, from results alone.
