"""The page that people look at: results/report.html, made of finished tables and figures."""
