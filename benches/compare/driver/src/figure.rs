use plotters::prelude::*;

use crate::chart::{Chart, color};

const WIDTH: u32 = 520;
const HEIGHT: u32 = 400;
/// Of the names below the charts; a line of them for every three.
const NAME_HEIGHT: u32 = 24;
const NAME_WIDTH: i32 = 170;

/// Charts in rows and columns, with one legend.
pub(crate) struct Figure {
    pub(crate) file: &'static str,
    pub(crate) rows: Vec<Vec<Chart>>,
}

impl Figure {
    /// As SVG.
    pub(crate) fn draw(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default().max(1);
        let width = WIDTH * u32::try_from(columns).expect("fits");
        let height = HEIGHT * u32::try_from(self.rows.len()).expect("fits");
        let names = self.names();
        let in_a_line = usize::try_from(width).expect("fits") / usize::try_from(NAME_WIDTH).expect("fits");
        let lines = u32::try_from(names.len().div_ceil(in_a_line)).expect("fits");
        let mut svg = String::new();
        {
            let root =
                SVGBackend::with_string(&mut svg, (width, height + NAME_HEIGHT * (lines + 1))).into_drawing_area();
            root.fill(&WHITE).expect("draws");
            let (charts, legend) = root.split_vertically(height);
            for (area, chart) in charts.split_evenly((self.rows.len(), columns)).iter().zip(self.rows.iter().flatten())
            {
                chart.draw(area);
            }
            for (number, name) in names.iter().enumerate() {
                let x = 70 + NAME_WIDTH * i32::try_from(number % in_a_line).expect("fits");
                let y = 12 + i32::try_from(number / in_a_line * 24).expect("fits");
                legend.draw(&Circle::new((x, y), 5, color(name).filled())).expect("draws");
                let text = Text::new(*name, (x + 12, y - 7), ("sans-serif", 15).into_font());
                legend.draw(&text).expect("draws");
            }
            root.present().expect("draws");
        }
        svg
    }

    /// Of all series, each once.
    fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for series in self.rows.iter().flatten().flat_map(|chart| &chart.series) {
            if !names.contains(&series.name) {
                names.push(series.name);
            }
        }
        names
    }
}
