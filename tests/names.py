"""Names as an attacker would choose them, for whatever shows names from data."""

ATTACKS = (
    "sec[/1]",
    "t[bold red]x[/]",
    ":smile: [link=https://example.com]x[/link]",
    "esc\x1b[31m\x1b]0;title\x07",
    "c1\x9b2J",
    "line\nerror: forged\rgone",
    "separator\u2028paragraph\u2029",
    "bidi\u202egnp.exe\u2066x",
    "# heading\n\n## Evaluation",
    "![image](https://example.com/x.png)",
    "[link](javascript:alert(1)) <https://example.com>",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a | b | c \\| d",
    "`code` ``more`` *bold* _italic_ ~~gone~~",
    "</script><!--",
    "\" onload=alert(1) x='",
    "a$b$ $\\frac{1$",
    "../../escape/../x",
    "{{ 7 * 7 }}{% raw %}",
    "- item: [1]\n---\nlicense: other",
    "&lt;b&gt; &#60;i&#62;",
    "www.example.com user@example.com",
    "𐏿\udce9lone",
)
"""Each is one name of a topic, model, record, detector or file."""
