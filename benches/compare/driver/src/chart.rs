use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, SegmentValue, ValueFormatter};
use plotters::prelude::*;

use crate::spread::Spread;
use crate::subject::{CACHED, COLD, GROUPS};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Lines over a few named places.
#[derive(Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) ticks: Vec<String>,
    /// With its unit.
    pub(crate) y: &'static str,
    pub(crate) logarithmic: bool,
    pub(crate) series: Vec<Series>,
}

/// A value for each tick, where there is one.
#[derive(Clone)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<Option<Spread>>,
}

/// Colours that can be told apart by those who do not see all of them (Okabe and Ito); ours are the blue ones.
pub(crate) fn color(name: &str) -> RGBColor {
    match name {
        COLD => RGBColor(0, 114, 178),
        CACHED => RGBColor(86, 180, 233),
        GROUPS => RGBColor(0, 50, 98),
        "cqrs-es" => RGBColor(213, 94, 0),
        "esrs" => RGBColor(230, 159, 0),
        "disintegrate" => RGBColor(0, 158, 115),
        "evento" => RGBColor(204, 121, 167),
        "eventastic" => RGBColor(120, 80, 40),
        _ => RGBColor(90, 90, 90),
    }
}

impl Chart {
    pub(crate) fn draw(&self, area: &Area<'_>) {
        let values = || self.series.iter().flat_map(|series| series.points.iter().flatten());
        let most = values().map(|spread| spread.most).fold(0.0, f64::max) * 1.1;
        let least = values().map(|spread| spread.least).fold(f64::INFINITY, f64::min) / 1.3;
        if self.logarithmic {
            self.draw_on(area, (least..most * 1.2).log_scale());
        } else {
            self.draw_on(area, 0.0..most);
        }
    }

    fn draw_on<Y>(&self, area: &Area<'_>, y: Y)
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let last = i32::try_from(self.ticks.len()).expect("fits") - 1;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d((0..last).into_segmented(), y)
            .expect("draws");
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|place| self.tick(place))
            .y_label_formatter(&|value| number(*value))
            .draw()
            .expect("draws");
        for series in &self.series {
            let color = color(series.name);
            let points = || (0..).zip(&series.points).filter_map(|(at, point)| Some((place(at), (*point)?)));
            let medians = points().map(|(at, spread)| (at, spread.median));
            chart.draw_series(LineSeries::new(medians.clone(), color.stroke_width(2))).expect("draws");
            chart.draw_series(medians.map(|point| Circle::new(point, 4, color.filled()))).expect("draws");
            let spreads = points().map(|(at, spread)| vec![(at.clone(), spread.least), (at, spread.most)]);
            chart.draw_series(spreads.map(|ends| PathElement::new(ends, color))).expect("draws");
        }
    }

    fn tick(&self, place: &SegmentValue<i32>) -> String {
        let SegmentValue::CenterOf(at) = place else { return String::new() };
        usize::try_from(*at).ok().and_then(|at| self.ticks.get(at)).cloned().unwrap_or_default()
    }
}

fn place(at: i32) -> SegmentValue<i32> {
    SegmentValue::CenterOf(at)
}

fn number(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{}", (value * 1e3).round() / 1e3) }
}
