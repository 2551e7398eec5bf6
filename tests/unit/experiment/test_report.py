"""Tables and HTML pages, with escaped text."""

import base64

from arinv.experiment import report

TABLE = report.Table(["encoder", "PSNR <dB>"], [["standard", "1"], ["a & b", "2"]])


def test_write_writes_tables_in_both_formats(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"png")
    report.write(tmp_path, "Title <1>", [TABLE, TABLE], ["a note"], text="above", pictures={"one & all": picture})
    markdown, html = (tmp_path / "table.md").read_text(), (tmp_path / "report.html").read_text()
    table = "| encoder | PSNR <dB> |\n| --- | ---: |\n| standard | 1 |\n| a & b | 2 |\n"
    assert markdown == f"# Title <1>\n\n{table}\n{table}\na note\n"
    assert html.count("<tr><th>encoder</th><th>PSNR &lt;dB&gt;</th></tr>") == 2
    assert "<td>a &amp; b</td>" in html and "<h1>Title &lt;1&gt;</h1>" in html and "<h2>one &amp; all</h2>" in html
    assert f"base64,{base64.b64encode(b'png').decode()}" in html


def test_write_writes_no_page_without_pictures(tmp_path):
    report.write(tmp_path, "Title", [TABLE], [])
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]
