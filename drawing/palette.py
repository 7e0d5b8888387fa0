"""Colours: of pages and text, of right and wrong, and of lines in a chart."""

PAGE, PANEL, INK, GREY, FAINT = "#eef1f5", "#ffffff", "#16202c", "#66717f", "#e3e8ee"
GREEN, RED, NEUTRAL, AMBER = "#12934a", "#d8343c", "#8d9aaa", "#a15c07"

# Okabe and Ito's colours, which stay apart for colour-blind readers.
BLUE, VERMILION, TEAL, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
