//! The run as a picture.

use anyhow::Result;
use plotters::prelude::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/figures/overload.svg");
const SHOWN: &str = "docs/figures/overload.svg";
const INK: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(214, 39, 40)];

/// Draws goodput over load; returns where.
pub(super) fn draw(curves: &[(&str, &Vec<f64>)], loads: &[f64]) -> Result<&'static str> {
    if let Some(folder) = std::path::Path::new(PATH).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let root = SVGBackend::new(PATH, (720, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let most = curves
        .iter()
        .flat_map(|(_, curve)| curve.iter())
        .copied()
        .fold(1.0, f64::max);
    let (least_load, most_load) = (loads[0], loads[loads.len() - 1]);
    let mut chart = ChartBuilder::on(&root)
        .caption("Calls served within 100 ms, per second", ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((least_load..most_load).log_scale(), 0.0..most * 1.15)?;
    chart
        .configure_mesh()
        .x_desc("offered load, times the capacity of 8 connections")
        .x_label_formatter(&|load| format!("{load}"))
        .light_line_style(WHITE)
        .draw()?;
    for ((name, curve), ink) in curves.iter().zip(INK) {
        let points: Vec<_> = loads.iter().copied().zip(curve.iter().copied()).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), ink.stroke_width(2)))?
            .label((*name).to_owned())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], ink.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, ink.filled())))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(SHOWN)
}
