"""The style of plots: markers at one place are all seen, and the same content is the same file."""

from serve_app import plots


def test_markers_at_one_place_do_not_hide_each_other():
    _, axes = plots.new_figure()
    for number in range(5):
        plots.mark(axes, number, (0.5, 0.5), f"{number}")
    lines = axes.get_lines()
    sizes, levels = [line.get_markersize() for line in lines], [line.get_zorder() for line in lines]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 5, (
        "each later marker leaves a ring of the others"
    )
    assert levels == sorted(levels) and len({line.get_marker() for line in lines}) == 5


def test_panels_and_files(tmp_path):
    def draw(path):
        figure, axes = plots.new_figure(2)
        for number, panel in enumerate(axes):
            panel.plot([0, 1], [0, 1], color=plots.color(number), label="line")
            plots.finish(panel, f"panel {number}", xlabel="x", ylabel="y")
        plots.save(figure, path)
        return path.read_bytes()

    one, other = draw(tmp_path / "deep" / "a.png"), draw(tmp_path / "b.png")
    assert one == other and one.startswith(b"\x89PNG")
    assert plots.color(0) != plots.color(1) and plots.color(len(plots.COLORS)) == plots.color(0)
