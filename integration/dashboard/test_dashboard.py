"""The page at the admin port's `/`, in a real browser: `make test-dashboard`.

Most tests show it made-up states (`made_up`, `server`) under the product's own policy; the last one a sidecar that runs. Every
view is photographed, in light and dark, into the folder `OUT` (target/dashboard), to be looked at by people. How fluently a
mesh of 1,000 nodes and 5,000 links moves is measured and reported there, in fluency.json, not asserted: a build machine
without a graphics card says little about the frames, and how long the page's own code takes of each (`page_ms`) depends on the machine, too.
"""

import contextlib
import copy
import json
import os
import pathlib
import re
import shutil
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import made_up
from live import Mesh
from server import Serve
from playwright.sync_api import expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(os.environ.get("OUT", ROOT / "target/dashboard"))
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BINARY = os.environ.get("PATHLOOM_BINARY", str(ROOT / "target/debug/pathloom"))
# A slow machine may take its time: nothing here is about speed.
PATIENCE_MS = 60_000
# With PATHLOOM_BLESS=1 these go to the README.
README = ["mesh-light", "explain-light", "request-light", "timeline-light", "service-dark", "canary-light", "model-dark", "mesh-large-chosen"]
VIEWS = ["mesh", "service", "explain", "requests", "timeline", "canary", "model"]

expect.set_options(timeout=PATIENCE_MS)


def luminance(colour):
    """Relative luminance (WCAG 2.2) of `rgb(...)`."""
    parts = [float(part) / 255 for part in re.findall(r"[0-9.]+", colour)[:3]]
    return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class Dashboard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        OUT.mkdir(parents=True, exist_ok=True)
        cls.playwright = sync_playwright().start()
        # WebGL in software, as there is no graphics card; root cannot have the browser's sandbox.
        switches = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--disable-dev-shm-usage"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
        cls.browser = cls.playwright.chromium.launch(executable_path=BROWSER, args=switches)

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.playwright.stop()
        for name in README if os.environ.get("PATHLOOM_BLESS") else []:
            if (OUT / f"{name}.png").exists():
                shutil.copy(OUT / f"{name}.png", ROOT / "src/admin/assets/screenshots")

    @contextlib.contextmanager
    def page(self, url, view="", dark=False, width=1440, height=900, expected=()):
        """A page that must make no mistake: no exception, no word of the policy, nothing asked for that is not there."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce")
        context.set_default_timeout(PATIENCE_MS)
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
        page.goto(url + view)
        yield page
        context.close()
        # A machine that is very busy lets the page wait for an answer longer than it does; it then asks again.
        left = [w for w in wrong if "GPU stall" not in w and "TimeoutError" not in w and not any(e in w for e in expected)]
        self.assertEqual(left, [])

    def photograph(self, page, name):
        page.wait_for_timeout(500)
        page.screenshot(path=str(OUT / f"{name}.png"))

    def where(self, page, node):
        """Where a node is on the page, once it stays there."""
        self.until(page, "!document.getElementById('graph').picture.sigma.getCamera().isAnimated()")
        at = page.evaluate("key => { const s = document.getElementById('graph').picture.sigma; return s.framedGraphToViewport(s.getNodeDisplayData(key)); }", node)
        box = page.locator("#graph").bounding_box()
        return box["x"] + at["x"], box["y"] + at["y"]

    def camera(self, page):
        return page.evaluate("document.getElementById('graph').picture.sigma.getCamera().getState()")

    def test_every_view_is_photographed_in_light_and_dark(self):
        with Serve(made_up.shop()) as proxy:
            for dark in (False, True):
                for view, place in zip(VIEWS, ["", "#/service/catalog", "#/explain/frontend/catalog", "#/requests", "#/timeline", "#/canary", "#/model"]):
                    with self.subTest(view=view, dark=dark), self.page(proxy.url, place, dark) as page:
                        expect(page.locator("#link")).to_have_text("live")
                        expect(page.locator("main section").first).to_be_visible()
                        self.photograph(page, f"{view}-{'dark' if dark else 'light'}")
                        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                        self.assertLessEqual(wide, 0, f"{view} is wider than the page")
            for view, place in zip(VIEWS, ["", "#/service/catalog", "#/explain/frontend/catalog", "#/requests", "#/timeline", "#/canary", "#/model"]):
                with self.subTest(view=view), self.page(proxy.url, place, width=430, height=900) as page:
                    expect(page.locator("main section").first).to_be_visible()
                    self.photograph(page, f"{view}-narrow")
                    self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth - innerWidth"), 0, f"{view} is wider than a narrow page")
            for view in ("service", "explain"):
                with self.page(proxy.url, f"#/{view}") as page:
                    expect(page.locator("tbody tr").first).to_be_visible()
                    self.photograph(page, f"{view}-all")

    def test_a_click_on_a_node_shows_what_is_known_of_it_and_where_to_read_on(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#count")).to_have_text("8 of 8")
            x, y = self.where(page, "10.0.1.3:8080")
            page.mouse.move(x - 3, y)
            page.mouse.move(x, y)
            expect(page.locator(".tip")).to_contain_text("10.0.1.3:8080")
            page.mouse.click(x, y, delay=60)
            chosen = page.locator("#chosen")
            expect(chosen).to_contain_text("94.0 ms mean")
            # The last column, too, is on the page.
            errors, side = chosen.locator("th").get_by_text("errors", exact=True).first.bounding_box(), page.locator("#side").bounding_box()
            self.assertLessEqual(errors["x"] + errors["width"], side["x"] + side["width"])
            expect(chosen).to_contain_text("frontend@node-1")
            self.photograph(page, "mesh-chosen")
            chosen.get_by_role("link", name="frontend → catalog").click()
            expect(page.locator("main h2").first).to_have_text("frontend → catalog")
            row = page.locator("tr[data-key='10.0.1.3:8080']").first
            expect(row).to_contain_text("10.0%")
            expect(page.locator("tr[data-key='10.0.1.3:8080']").nth(1)).to_contain_text("raised to the floor")
            expect(page.locator("tr[data-key='10.0.1.4:8080']").first).to_contain_text("✕ ejected")
            page.get_by_role("link", name="service catalog").click()
            expect(page.locator("main")).to_contain_text("Called by")
            page.get_by_role("link", name="storage", exact=True).first.click()
            expect(page.locator("main h2").first).to_have_text("storage")

    def test_what_columns_mean_is_said_at_their_titles_and_below_and_a_narrow_page_shows_first_what_matters(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url, "#/explain/frontend/catalog", width=800) as page:
            expect(page.locator("main")).to_contain_text("weight: the part of the requests that the generation in force gives an endpoint")
            expect(page.locator("main")).to_contain_text("they differ: a request takes the cheapest of the candidates compared")
            for title, said in [("weight", "that the generation in force gives"), ("calls", "affinity, trials, retries"), ("predicted", "expected for the seconds after it"), ("observed", "the last 10 s"), ("intrinsic", "fair share")]:
                expect(page.locator("th").get_by_text(title, exact=True).first).to_have_attribute("title", re.compile(re.escape(said)))
            for title in ["health", "weight", "calls", "errors", "in flight", "predicted", "observed"]:
                box = page.locator("th").get_by_text(title, exact=True).first.bounding_box()
                self.assertLessEqual(box["x"] + box["width"], 800, f"{title} is beyond the edge of a narrow page")
            expect(page.locator("tr[data-key='10.0.1.4:8080'] .tag").first).to_be_in_viewport()

    def test_two_clicks_are_a_double_one_where_the_system_says_so_and_never_because_the_page_was_busy(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#count")).to_have_text("8 of 8")
            here, there = self.where(page, "10.0.1.3:8080"), self.where(page, "10.0.2.1:6379")
            # In one task, as they come one after another from a page that was busy with drawing.
            click = """clicks => clicks.forEach(([[clientX, clientY], detail]) => document.querySelector("#graph .sigma-mouse")
                .dispatchEvent(new MouseEvent("click", { clientX, clientY, detail, bubbles: true, cancelable: true })))"""
            page.evaluate(click, [[here, 1], [there, 1]])
            expect(page.locator("#chosen h2")).to_have_text("10.0.2.1:6379")
            self.assertEqual(self.camera(page)["ratio"], 1, "nothing was zoomed")
            page.evaluate(click, [[here, 1], [here, 2]])
            expect(page.locator("#chosen h2")).to_have_text("10.0.1.3:8080")
            self.until(page, "document.getElementById('graph').picture.sigma.getCamera().getState().ratio < 0.6")

    def test_services_stand_for_their_instances_and_say_what_is_true_of_all(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            page.get_by_label("services, not instances").check()
            expect(page.locator("#count")).to_have_text("3 of 3")
            expect(page.locator(".controls")).to_contain_text("3 nodes, 2 links")
            # One of four is gone: the service is in trouble, and still gets requests.
            page.locator("[data-pick='catalog']").click()
            expect(page.locator("#side .list")).to_contain_text("! catalog")
            expect(page.locator("#chosen")).to_contain_text("119/s")
            # 52 x 12.1, 55 x 11.7 and 12 x 94 ms, by their calls.
            expect(page.locator("#chosen")).to_contain_text("20.2 ms mean")
            page.locator("#zone").select_option("eu-1a")
            expect(page.locator("#count")).to_have_text("2 of 3")

    def test_a_link_says_its_numbers_under_the_pointer(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#count")).to_have_text("8 of 8")
            (x1, y1), (x2, y2) = self.where(page, "frontend@node-1"), self.where(page, "10.0.1.1:8080")
            page.mouse.move(x1 + (x2 - x1) * 0.48, y1 + (y2 - y1) * 0.48)
            page.mouse.move(x1 + (x2 - x1) * 0.5, y1 + (y2 - y1) * 0.5)
            expect(page.locator(".tip")).to_contain_text("frontend@node-1 → 10.0.1.1:8080")
            expect(page.locator(".tip")).to_contain_text("weight 44%")

    def test_a_mesh_that_changes_is_followed_and_what_is_gone_is_let_go(self):
        state = made_up.shop()
        full, quiet = state.graph, copy.deepcopy(state.graph)
        for each in quiet["links"]:
            each["statistics"] = made_up.statistics(1, 0)
        for each in quiet["nodes"]:
            each["calls_per_second"] = 0
        state.graph = quiet
        with Serve(state) as proxy, self.page(proxy.url) as page:
            note = page.locator(".controls")
            expect(note).to_contain_text("8 nodes, 16 links")
            page.locator("[data-pick='10.0.1.3:8080']").click()
            expect(page.locator("#chosen h2")).to_have_text("10.0.1.3:8080")
            state.graph = full
            expect(note).to_contain_text("8 nodes, 13 links")
            state.graph = full | {"nodes": full["nodes"][:3], "links": full["links"][:2]}
            expect(note).to_contain_text("3 nodes, 2 links")
            expect(page.locator("#chosen")).to_have_count(0)
            expect(page.locator("#link")).to_have_text("live")

    def test_search_and_filters_narrow_the_mesh(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#count")).to_have_text("8 of 8")
            page.keyboard.press("/")
            page.keyboard.type("storage eu-1b")
            expect(page.locator("#count")).to_have_text("3 of 8")
            self.photograph(page, "mesh-search")
            page.keyboard.press("Enter")
            expect(page.locator("#chosen h2")).to_have_text("10.0.2.1:6379")
            page.keyboard.press("Escape")
            expect(page.locator("#count")).to_have_text("8 of 8")
            expect(page.locator("#chosen")).to_have_count(0)
            page.get_by_label("only what is in trouble").check()
            expect(page.locator("#count")).to_have_text("3 of 8")
            page.get_by_label("only what is in trouble").uncheck()
            page.locator("#zone").select_option("eu-1a")
            expect(page.locator("#count")).to_have_text("3 of 8")
            page.locator("#zone").select_option("")
            note = page.locator(".controls")
            expect(note).to_contain_text("8 nodes, 13 links, 3 without calls")
            page.get_by_label("links without calls").check()
            expect(note).to_contain_text("8 nodes, 16 links")
            page.keyboard.press("Escape")
            page.locator("#search").fill("nobody has this name")
            expect(page.locator("#side")).to_contain_text("Nothing fits")

    def test_colours_are_told_apart_by_lightness_and_words_stand_out(self):
        with Serve(made_up.shop()) as proxy:
            for dark in (False, True):
                with self.page(proxy.url, dark=dark) as page:
                    expect(page.locator("#count")).to_have_text("8 of 8")
                    # Who sees no hue sees the order of latencies still: each step is darker (on a dark page lighter) than the last.
                    ramp = page.evaluate("""async () => {
                        const { scale } = await import(document.querySelector("script[type=module]").src.replace("app.js", "colour.js"));
                        const of = scale([1, 100]); return [1, 2, 5, 10, 20, 50, 100].map(v => of.of(v));
                    }""")
                    lightness = [luminance(colour) for colour in ramp]
                    self.assertEqual(lightness, sorted(lightness, reverse=not dark))
                    self.assertTrue(all(abs(a - b) > 0.01 for a, b in zip(lightness, lightness[1:])), lightness)
                    shown = page.evaluate("""() => {
                        const span = document.body.appendChild(document.createElement("span"));
                        const of = name => { span.style.color = `var(--${name})`; return getComputedStyle(span).color; };
                        return Object.fromEntries(["card", "page", "ink", "soft", "accent", "good", "warn", "bad"].map(name => [name, of(name)]));
                    }""")
                    for name in ["ink", "soft", "accent", "good", "warn", "bad"]:
                        for behind in ["card", "page"]:
                            self.assertGreaterEqual(contrast(shown[name], shown[behind]), 4.5, f"{name} on {behind}, dark {dark}")
                    for colour in ramp:
                        self.assertGreaterEqual(contrast(colour, shown["card"]), 1.9, f"{colour} on the page, dark {dark}")

    def test_everything_is_at_hand_for_the_keyboard(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#count")).to_have_text("8 of 8")
            for number, view in enumerate(VIEWS, 1):
                page.keyboard.press(str(number))
                expect(page.locator("nav a[aria-current=page]")).to_have_attribute("href", f"#/{view}")
            page.keyboard.press("1")
            graph = page.locator("#graph")
            graph.focus()
            before = self.camera(page)
            page.keyboard.press("ArrowRight")
            self.until(page, "x => document.getElementById('graph').picture.sigma.getCamera().getState().x > x + 0.05", before["x"])
            page.keyboard.press("+")
            self.until(page, "document.getElementById('graph').picture.sigma.getCamera().getState().ratio < 0.9")
            page.keyboard.press("0")
            self.until(page, "(({ x, ratio }) => Math.abs(x - 0.5) < 1e-3 && ratio === 1)(document.getElementById('graph').picture.sigma.getCamera().getState())")
            # By the tabulator alone from the graph to the list; what has the focus keeps it while generations come.
            page.keyboard.press("Tab")
            name = page.evaluate("document.activeElement.closest('li').dataset.key")
            generation = page.locator("#facts [data-key=generation] b")
            first = int(generation.inner_text())
            self.until(page, "g => Number(document.querySelector('#facts [data-key=generation] b').textContent) > g + 1", first)
            self.assertEqual(page.evaluate("document.activeElement.closest('li')?.dataset.key"), name)
            page.keyboard.press("Enter")
            expect(page.locator("#chosen h2")).to_have_text(name)

    def test_one_request_is_explained_by_its_id(self):
        # Tables that are kept no longer are answered with 404.
        with Serve(made_up.shop()) as proxy, self.page(proxy.url, "#/requests", expected=["404"]) as page:
            expect(page.locator("#count")).to_contain_text("140 of the last 140")
            page.locator("#search").fill("/things/42")
            expect(page.locator("#requests tbody tr")).to_have_count(1)
            expect(page.locator("#requests tbody tr")).to_contain_text("7.9 ×")
            page.locator("#id").fill("9b70")
            page.keyboard.press("Enter")
            story = page.locator("#story")
            expect(story).to_contain_text("10.0.1.3:8080, chosen by the model's weights")
            expect(story).to_contain_text("12.2 ms was expected, so it took 7.9 times as long")
            # What made the generation that chose, and its candidates as they were then, with their scores, guards and attention.
            expect(page.locator(".changes")).to_contain_text("took 94.0 ms where 12.2 ms were predicted")
            expect(page.locator("main")).to_contain_text("the table that chose, as it was in generation #440")
            chosen = page.locator("tr[data-key='10.0.1.3:8080']")
            expect(chosen.first).to_contain_text("◀ chosen")
            expect(chosen.first).to_contain_text("25.0%")
            expect(page.locator("tr[data-key='10.0.1.2:8080']").nth(1)).to_contain_text("raised to the floor")
            expect(page.locator("tr[data-key='10.0.1.9:8080']").first).to_be_visible()
            expect(page.locator("tr[data-key='10.0.1.4:8080']")).to_have_count(0)
            expect(page.locator("main")).to_contain_text("how the caller's attention was shared")
            self.photograph(page, "request-light")
            # A request that is over is asked for once.
            self.assertEqual(sum("id=9b70" in path for path in proxy.asked), 1)
            self.assertEqual(sum("generation=440" in path for path in proxy.asked), 1)
            page.go_back()
            page.locator("#search").fill("")
            page.get_by_label("only failed ones").check()
            expect(page.locator("#requests tbody tr")).to_have_count(2)
            page.get_by_role("link", name=":").first.click()
            expect(page.locator("#story")).to_contain_text("request_timeout: The whole request took longer than it may.")
            # Its generation's tables are kept no longer: how it would be chosen now, said to be that.
            expect(page.locator("main")).to_contain_text("the table that would choose now; the tables of generation 470 are not kept")
            expect(page.locator("tr[data-key='10.0.1.4:8080']").first).to_contain_text("✕ ejected")
            self.photograph(page, "request-failed")

    def test_a_request_that_is_not_known_or_not_one_says_so(self):
        state = made_up.shop()
        with Serve(state) as proxy, self.page(proxy.url, "#/requests/77a", expected=["404"]) as page:
            expect(page.locator("main")).to_contain_text("2 requests have ids that begin with `77a`: give more of it")
            page.get_by_role("link", name="77ab").click()
            expect(page.locator("#story")).to_contain_text("none: it reached no cluster")
            page.goto(proxy.url + "#/requests/ffff")
            expect(page.locator("main")).to_contain_text("no request is known whose id is `ffff`")
            # It is not looked for in a large log once a second, for good.
            self.wait(page, lambda: sum("id=ffff" in path for path in proxy.asked) == 3)
            self.until(page, "g => Number(document.querySelector('#facts [data-key=generation] b').textContent) > g + 3", int(page.locator("#facts [data-key=generation] b").inner_text()))
            self.assertEqual(sum("id=ffff" in path for path in proxy.asked), 3)
            state.requests, state.log = [], "off"
            page.goto(proxy.url + "#/requests")
            expect(page.locator("main")).to_contain_text("the access log is off")

    def test_the_timeline_tells_what_changed_and_can_be_searched(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url, "#/timeline") as page:
            rows = page.locator(".changes > li")
            expect(rows.first).to_contain_text("#491")
            expect(page.locator("main")).to_contain_text("took 94.0 ms where 12.2 ms were predicted")
            expect(page.locator("main")).to_contain_text("model → last_good")
            page.locator("#cause").select_option("health")
            expect(rows).to_have_count(2)
            expect(rows.last).to_contain_text("10.0.1.4:8080: healthy → ejected")
            page.locator("#cause").select_option("")
            page.locator("#search").fill("raised to the floor")
            expect(rows).to_have_count(1)
            page.locator("#search").fill("")
            quiet = rows.count()
            page.get_by_label("quiet ticks, too").check()
            self.until(page, "n => document.querySelectorAll('.changes > li').length > n + 20", quiet)
            # Each generation that comes is told of, once.
            self.until(page, "document.querySelectorAll(\".changes > li[data-key='503']\").length === 1")

    def test_arms_stand_side_by_side_and_the_ladder_shows_its_rung(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url, "#/canary") as page:
            expect(page.locator(".arms > div").first).to_contain_text("13.4 ms")
            expect(page.locator(".arms > div").last).to_contain_text("118 ms")
            expect(page.locator("main")).to_contain_text("latency-11.0% (-19.0% to -3.0%)")
            page.keyboard.press("7")
            expect(page.locator(".ladder [aria-current]")).to_contain_text("model")
            expect(page.locator("main")).to_contain_text("onnxruntime 1.31.1")

    def test_a_proxy_that_has_just_started_says_what_it_waits_for(self):
        with Serve(made_up.empty()) as proxy:
            for view in VIEWS:
                with self.page(proxy.url, f"#/{view}") as page:
                    expect(page.locator("#facts")).to_contain_text("none yet")
                    expect(page.locator("#banners")).to_contain_text("the model is being loaded")
                    expect(page.locator("main .empty, main .ladder").first).to_be_visible()
                    self.photograph(page, f"{view}-empty")

    def test_trouble_is_said_on_every_view_and_names_its_reason(self):
        with Serve(made_up.trouble()) as proxy:
            for view in ["mesh", "explain/frontend/catalog", "model", "canary"]:
                with self.page(proxy.url, f"#/{view}", dark=view == "model") as page:
                    expect(page.locator("#banners")).to_contain_text("did you mean `endpoints`?")
                    expect(page.locator("#banners")).to_contain_text("no model file /etc/pathloom/shop.onnx")
                    expect(page.locator("#banners")).to_contain_text("dns catalog.shop:8080 fails to say where catalog is: timeout: nobody answers")
                    if view.startswith("explain"):
                        expect(page.locator("tr[data-key='dns catalog.shop:8080']")).to_contain_text("✕ failing")
                    self.photograph(page, f"{view.split('/')[0]}-trouble")

    def test_what_does_not_exist_is_named(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url, "#/explain/frontend/nothing", expected=["404"]) as page:
            expect(page.locator("main")).to_contain_text("there is no cluster `nothing`; there are: catalog")
            page.goto(proxy.url + "#/service/nothing")
            expect(page.locator("main")).to_contain_text("no service or node “nothing”")

    def test_words_of_the_proxy_are_never_markup(self):
        state = made_up.shop()
        name = "<img src=x onerror=alert(1)>"
        state.graph["nodes"][0] |= {"service": name}
        state.routing["tables"][0]["candidates"][0]["reason"] = name
        with Serve(state) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#side")).to_contain_text(name)
            page.goto(proxy.url + "#/explain/frontend/catalog")
            expect(page.locator("main")).to_contain_text(name)
            self.assertEqual(page.locator("img").count(), 0)

    def test_without_a_place_to_listen_it_asks(self):
        with Serve(made_up.shop(), full=True) as proxy, self.page(proxy.url, expected=["503"]) as page:
            expect(page.locator("#link")).to_have_text("asking every 2 s")
            asked = len(proxy.asked)
            self.until(page, "performance.now() > 8000")
            self.assertGreater(len(proxy.asked), asked)

    def test_a_page_in_the_background_gives_its_place_back(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#link")).to_have_text("live")
            turn = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
            page.evaluate(turn, True)
            self.wait(page, lambda: proxy.listening == 0)
            page.evaluate(turn, False)
            self.wait(page, lambda: proxy.listening == 1)

    def test_a_proxy_that_is_gone_is_said_to_be(self):
        with Serve(made_up.shop()) as proxy, self.page(proxy.url, expected=["ERR_", "fetch", "Timeout", "timed out"]) as page:
            expect(page.locator("#link")).to_have_text("live")
            proxy.__exit__()
            expect(page.locator("#link")).to_have_text("no answer; what is shown is old")
            expect(page.locator("body")).to_have_class("stale")

    def test_a_browser_without_webgl_has_the_list_and_the_table(self):
        with Serve(made_up.shop()) as proxy:
            context = self.browser.new_context()
            context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
            page = context.new_page()
            page.goto(proxy.url)
            expect(page.locator("#graph")).to_contain_text("no WebGL")
            expect(page.locator("#links tbody tr").first).to_contain_text("10.0.1.2:8080")
            context.close()

    def test_a_thousand_nodes_and_five_thousand_links_are_shown_and_measured(self):
        with Serve(made_up.large()) as proxy, self.page(proxy.url) as page:
            expect(page.locator("#count")).to_have_text("1000 of 1000")
            expect(page.locator(".controls")).to_contain_text(", 5000 links")
            self.photograph(page, "mesh-large-light")
            measured = {
                "panning": self.frames(page, lambda: self.drag(page)),
                "zooming": self.frames(page, lambda: self.zoom(page)),
                "live updates": self.frames(page, lambda: self.generations(page, 6)),
            }
            # It moved, and generations that came were drawn: else the numbers are of nothing.
            for what, of in measured.items():
                self.assertGreater(of["drawn"], 0, f"{what}: {of}")
            page.locator("#search").fill("service-120")
            expect(page.locator("#count")).to_have_text("4 of 1000")
            page.keyboard.press("Enter")
            expect(page.locator("#chosen")).to_contain_text("service-120")
            self.photograph(page, "mesh-large-chosen")
            # What is under the pointer is found in a large mesh, too, and a click beside all nodes lets the chosen one go.
            name = page.locator("#chosen h2").inner_text()
            x, y = self.where(page, name)
            page.mouse.move(x - 2, y)
            page.mouse.move(x, y)
            expect(page.locator(".tip b")).to_have_text(name)
            box = page.locator("#graph").bounding_box()
            page.mouse.click(box["x"] + 3, box["y"] + 3, delay=60)
            expect(page.locator("#chosen")).to_have_count(0)
            page.mouse.click(x, y, delay=60)
            expect(page.locator("#chosen h2")).to_have_text(name)
            # The service of the chosen instance, among services.
            page.get_by_label("services, not instances").check()
            page.locator("#search").fill("")
            expect(page.locator("#count")).to_have_text("250 of 250")
            expect(page.locator("#chosen")).to_contain_text("instances")
            page.get_by_role("button", name="Show all").click()
            expect(page.locator("#chosen")).to_have_count(0)
            self.photograph(page, "mesh-large-services")
            page.get_by_label("services, not instances").uncheck()
            expect(page.locator("#count")).to_have_text("1000 of 1000")
            (OUT / "fluency.json").write_text(json.dumps(measured, indent=1) + "\n")
            print("fluency:", json.dumps(measured), file=sys.stderr)
        with Serve(made_up.large()) as proxy, self.page(proxy.url, dark=True) as page:
            expect(page.locator("#count")).to_have_text("1000 of 1000")
            self.photograph(page, "mesh-large-dark")
            page.goto(proxy.url + "#/explain")
            page.locator("#search").fill("service-007")
            expect(page.locator("tbody tr")).to_have_count(2)

    def generations(self, page, count):
        """Until so many further generations are on the page."""
        here = "Number(document.querySelector('#facts [data-key=generation] b').textContent)"
        self.until(page, f"g => {here} >= g", page.evaluate(here) + count)

    def middle(self, page):
        box = page.locator("#graph").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, page):
        """Three drags of a second and more, a move each frame or so, as a hand makes them."""
        x, y = self.middle(page)
        for _ in range(3):
            page.mouse.move(x, y)
            page.mouse.down()
            for i in range(60):
                page.mouse.move(x + 3 * i, y + i)
                page.wait_for_timeout(16)
            page.mouse.up()

    def zoom(self, page):
        """In and out by the wheel."""
        page.mouse.move(*self.middle(page))
        for turn in range(8):
            page.mouse.wheel(0, 240 if turn % 2 else -240)
            page.wait_for_timeout(400)

    def frames(self, page, act):
        """Frames a second, long tasks, and what the page itself takes for a picture while something is done: by the clock, and by
        the processor time of its thread, which neither other programs nor drawing without a graphics card change."""
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        busy = lambda: next(m["value"] for m in session.send("Performance.getMetrics")["metrics"] if m["name"] == "TaskDuration")
        before = busy()
        page.evaluate("""() => {
            window.seen = { frames: [], tasks: [], pictures: [] };
            const sigma = document.getElementById('graph').picture.sigma;
            let began = 0;
            seen.before = () => { began = performance.now(); };
            seen.after = () => seen.pictures.push(performance.now() - began);
            seen.sigma = sigma.on('beforeRender', seen.before).on('afterRender', seen.after);
            seen.observer = new PerformanceObserver(list => seen.tasks.push(...list.getEntries().map(e => e.duration)));
            seen.observer.observe({ entryTypes: ['longtask'] });
            const next = t => { seen.frames.push(t); seen.handle = requestAnimationFrame(next); };
            seen.handle = requestAnimationFrame(next);
        }""")
        act()
        after = busy()
        session.detach()
        measured = page.evaluate("""() => {
            cancelAnimationFrame(seen.handle);
            seen.observer.disconnect();
            seen.sigma.off('beforeRender', seen.before).off('afterRender', seen.after);
            const pictures = seen.pictures.sort((a, b) => a - b), page_ms = q => Math.round(10 * (pictures[Math.floor(q * (pictures.length - 1))] ?? 0)) / 10;
            const gaps = seen.frames.slice(1).map((t, i) => t - seen.frames[i]).sort((a, b) => a - b);
            const at = q => Math.round(10 * (gaps[Math.floor(q * (gaps.length - 1))] ?? 0)) / 10;
            const span = (seen.frames.at(-1) - seen.frames[0]) / 1000;
            return { frames_per_second: Math.round(10 * gaps.length / span) / 10, gap_ms_p50: at(0.5), gap_ms_p99: at(0.99), gap_ms_longest: at(1),
                drawn: pictures.length, page_ms_p50: page_ms(0.5), page_ms_p99: page_ms(0.99),
                tasks_over_50_ms: seen.tasks.length, longest_task_ms: Math.round(Math.max(0, ...seen.tasks)), edges_hidden_while_moving: seen.sigma.getSetting('hideEdgesOnMove') };
        }""")
        return measured | {"cpu_ms_a_picture": round(1000 * (after - before) / max(1, measured["drawn"]), 1)}

    def wait(self, page, holds, what="it"):
        end = time.monotonic() + PATIENCE_MS / 1000
        while not holds():
            self.assertLess(time.monotonic(), end, f"{what} did not come to be")
            page.wait_for_timeout(50)

    def until(self, page, expression, arg=None):
        """Playwright's own `wait_for_function` evaluates strings, which the page's policy forbids."""
        self.wait(page, lambda: page.evaluate(expression, arg), expression)

    def test_a_sidecar_that_runs_is_shown_live(self):
        with Mesh(BINARY) as mesh:
            url = f"http://{mesh.admin}/"
            with self.page(url) as page:
                expect(page.locator("#link")).to_have_text("live")
                expect(page.locator("#facts [data-key=rung] b")).to_have_text("model")
                generation = int(page.locator("#facts [data-key=generation] b").inner_text())
                self.until(page, "g => Number(document.querySelector('#facts [data-key=generation] b').textContent) > g + 2", generation)
                expect(page.locator(".controls")).to_contain_text("links")
                page.locator("#search").fill("storage")
                expect(page.locator("#side .list li").first).to_contain_text("storage")
                page.locator("#search").fill("")
                page.wait_for_timeout(8000)
                self.photograph(page, "live-mesh")
                for view in ["#/explain/frontend/catalog", "#/timeline", "#/model", "#/service/catalog"]:
                    page.goto(url + view)
                    expect(page.locator("main section").first).to_be_visible()
                    page.wait_for_timeout(1500)
                    self.photograph(page, "live-" + view.split("/")[1])
                self.assertGreaterEqual(page.locator("main tbody tr").count(), 3)
                # Its access log goes to its standard output, and one of the last requests is explained all the same.
                page.goto(url + "#/requests")
                page.locator("#search").fill("frontend catalog")
                page.get_by_label("hold still").check()
                page.get_by_role("link", name=":").first.click()
                expect(page.locator("#story")).to_contain_text("chosen by")
                expect(page.locator("#story")).to_contain_text("to the cluster catalog")
                expect(page.locator("main .mark").first).to_contain_text("chosen")
                self.photograph(page, "live-request")
                mesh.spoil_the_configuration()
                expect(page.locator("#banners")).to_contain_text("is wrong; the one before it stays in force")
            with self.page(url, "#/explain/frontend/catalog", dark=True) as page:
                expect(page.locator("main")).to_contain_text("at its fair share")
                self.photograph(page, "live-explain-dark")


if __name__ == "__main__":
    if not BROWSER:
        sys.exit("test_dashboard: no Chromium was found: install it, or name it in CHROMIUM")
    unittest.main(verbosity=2)
