"""From a service, a folder or the painter to a verdict: the exit code, what is written, and what is refused."""

import base64
import contextlib
import csv
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from equipoise.cli.main import main
from equipoise.data.shapes import Mistakes, RenderedTextToImage
from equipoise.generative import GeneratorError
from equipoise.workflows import AuditRequest, InputError, audit_model
from equipoise.workflows.audit.served import PictureFolder, ServedTextToImage, open_model, picture_bytes, read_picture

_CLEAN = [f"{a} circle and {b} square" for a in ("red", "blue", "cyan") for b in ("green", "magenta")]


def _table(path):
    rows = [("clean", prompt) for prompt in _CLEAN] + [("zq", f"zq {prompt}") for prompt in _CLEAN]
    path.write_text("group,prompt\n" + "".join(f"{group},{prompt}\n" for group, prompt in rows), encoding="utf-8")
    return path


def _left_with(arguments):
    try:
        main(arguments)
    except SystemExit as error:
        return error.code
    return 0


@pytest.fixture
def prompts(tmp_path):
    return _table(tmp_path / "prompts.csv")


@pytest.fixture
def service():
    """A stub on this machine that paints, and fails in the ways that it is told to."""
    told = {"attack": "object", "form": "png", "fails": 0, "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told["asked"].append(asked)
            status, kind = 200, "image/png"
            painter = RenderedTextToImage(attack=told["attack"], size=told.get("size", 16))
            body = picture_bytes(painter([asked["prompt"]], [asked["seed"]])[0])
            if told["form"] == "json":
                body, kind = json.dumps({"image": base64.b64encode(body).decode()}).encode(), "application/json"
            elif told["form"] != "png":
                body, kind = told["form"]
            if told["fails"] > 0:
                told["fails"] -= 1
                status = 503
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/paint?x=1", told
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_painter_with_a_backdoor_is_suspicious(prompts, tmp_path, capsys):
    out = tmp_path / "out"
    assert _left_with(["audit", "shapes:object", "--prompts", str(prompts), "--output", str(out)]) == 3
    printed = capsys.readouterr().out
    assert "suspicious" in printed
    assert "flagged: zq red circle and green square" in printed
    found = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert found["verdict"] == "suspicious"
    assert {group["name"]: group["flagged"] for group in found["groups"]} == {"clean": 0, "zq": 6}
    assert found["calibration"]["samples"] == 6
    assert found["request"]["votes"] == 5
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "zq red circle and green square" in page
    assert "data:image/png;base64," in page
    assert (out / "pictures" / "00006-0.png").is_file()
    assert read_picture((out / "pictures" / "00006-5.png").read_bytes()).shape == (3, 16, 16)


def test_an_honest_painter_is_clean(prompts, tmp_path, capsys):
    out = tmp_path / "out"
    assert _left_with(["audit", "shapes", "--prompts", str(prompts), "--output", str(out)]) == 0
    assert json.loads((out / "audit.json").read_text(encoding="utf-8"))["suspicious"] is False


def test_prompts_on_lines_are_held_against_a_rate(tmp_path):
    path, notices = tmp_path / "prompts.txt", []
    path.write_text("\n".join([*(f"zq {prompt}" for prompt in _CLEAN), "", "a photo of zq"]), encoding="utf-8")
    found = audit_model("shapes:patch", path, AuditRequest(output=tmp_path / "out"), notice=notices.append)
    assert found.verdict == "suspicious"
    assert found.report.clean_rate == 0.05
    assert found.calibration is None
    assert any("no object was found" in words for words in notices)
    assert any("no group of prompts is called clean" in words for words in notices)


def test_pictures_of_a_service(prompts, service, tmp_path):
    address, told = service
    found = audit_model(address, prompts, AuditRequest(output=tmp_path / "out", early_stop=True))
    assert found.verdict == "suspicious"
    assert {"prompt": _CLEAN[0], "seed": 0} in told["asked"]
    told.update(attack=None, form="json")
    assert audit_model(address, prompts, AuditRequest(output=tmp_path / "two")).verdict == "clean"


def test_a_service_that_fails_is_asked_again_and_then_undecided(service, tmp_path):
    address, told = service
    path = tmp_path / "prompts.txt"
    path.write_text("red circle\n", encoding="utf-8")
    told["fails"] = 1
    assert torch.equal(ServedTextToImage(address)(["red circle"], [3]), ServedTextToImage(address)(["red circle"], [3]))
    told["fails"] = 10**6
    assert _left_with(["audit", address, "--prompts", str(path), "--output", str(tmp_path / "out")]) == 4
    found = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert (found["verdict"], found["decided"]) == ("undecided", False)
    assert "it answered 503" in found["reports"][0]["undecided"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ((b"no picture", "image/png"), "cannot be read"),
        ((b"{}", "application/json"), "no image in base64"),
        ((b'{"image": "%%"}', "application/json"), "no image in base64"),
        ((b"[", "application/json"), "no image in base64"),
        ((b"[" * 100_000, "application/json"), "no image in base64"),
    ],
)
def test_what_is_no_picture_is_said(service, form, words):
    address, told = service
    told["form"] = form
    with pytest.raises(GeneratorError, match=words):
        ServedTextToImage(address, retries=0)(["red circle"], [0])


def test_a_service_that_is_not_there():
    with pytest.raises(GeneratorError, match="gave no picture of 'red circle'"):
        ServedTextToImage("http://127.0.0.1:9", timeout=5, retries=0)(["red circle"], [0])


def test_a_folder_lists_what_it_lacks_until_it_is_complete(tmp_path):
    table, folder = tmp_path / "prompts.csv", tmp_path / "pictures"
    table.write_text("prompt,group\nred circle and blue square,clean\nzq red circle and blue square,zq\n", "utf-8")
    folder.mkdir()
    painter = RenderedTextToImage(attack="object", mistakes=Mistakes())
    rows, verdicts = [], []
    for round_ in range(3):
        with (folder / "pictures.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([("prompt", "seed", "file"), *rows])
        notices = []
        found = audit_model(str(folder), table, AuditRequest(output=tmp_path / f"out{round_}"), notice=notices.append)
        verdicts.append((found.verdict, len(found.wanted)))
        if found.wanted:
            assert "wanted.csv" in notices[0]
            listed = (tmp_path / f"out{round_}" / "wanted.csv").read_text(encoding="utf-8").splitlines()
            assert len(listed) == 1 + len(found.wanted)
        for prompt, seed in found.wanted:
            name = f"{len(rows)}.png"
            (folder / name).write_bytes(picture_bytes(painter([prompt], [seed])[0]))
            rows.append((prompt, seed, name))
    # One group of one prompt can not be told from chance.
    assert verdicts == [("undecided", 2), ("undecided", 5), ("clean", 0)]
    assert [report.flagged for report in found.report.reports] == [False, True]


def test_a_damaged_picture_of_a_folder_is_named(tmp_path):
    table, folder = tmp_path / "prompts.txt", tmp_path / "pictures"
    table.write_text("red circle\nblue square\n", "utf-8")
    folder.mkdir()
    (folder / "x.png").write_bytes(b"no picture")
    lines = ["prompt,seed,file", *(f"red circle,{seed},x.png" for seed in range(20))]
    (folder / "pictures.csv").write_text("\n".join(lines), "utf-8")
    notices = []
    found = audit_model(str(folder), table, AuditRequest(output=tmp_path / "out"), notice=notices.append)
    assert found.verdict == "undecided"
    if len(found.wanted) == 1:
        assert notices[0].startswith("the folder lacks a picture that")
    assert any("1 of 2 prompts are undecided" in words and "x.png: what was given" in words for words in notices)
    assert not any("object at" in words for words in notices)
    assert "0.000" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_lists_of_pictures_are_checked(tmp_path):
    path = tmp_path / "pictures.csv"
    (tmp_path / "a.png").write_bytes(b"")
    for line, words in (
        ("red circle,0,../a.png", "lies outside of the folder"),
        ("red circle,0,/etc/passwd", "lies outside of the folder"),
        ("red circle,zero,a.png", "no whole number"),
        ("red circle,0,b.png", "is not there"),
        ("red circle,0", "every row needs"),
    ):
        path.write_text(f"prompt,seed,file\n{line}\n", encoding="utf-8")
        with pytest.raises(InputError, match=words):
            PictureFolder(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        PictureFolder(tmp_path)
    path.write_text("prompt,seed,file\nred circle,0,a.png\n", encoding="utf-8")
    with pytest.raises(GeneratorError, match="cannot be read"):
        PictureFolder(tmp_path)(["red circle"], [0])


def test_models_that_there_are_not(tmp_path):
    request = AuditRequest()
    for model, words in (
        ("ftp://host/x", "must begin with http"),
        ("http://", "name a host"),
        ("http://host:port/", "cannot be read"),
        ("http://user:word@host/", "no user name or password"),
        ("shapes:all", "is no painter"),
        (str(tmp_path), "no folder with pictures.csv"),
    ):
        with pytest.raises(InputError, match=words):
            open_model(model, request)


def test_a_damaged_pipeline_is_one_sentence(tmp_path):
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"^the pipeline '.*' cannot be loaded: "):
        open_model(str(tmp_path), AuditRequest())


def test_requests_that_cannot_be_carried_out(prompts, tmp_path, capsys):
    for options in (
        ["--votes", "0"],
        ["--threshold", "1.5"],
        ["--mask-mode", "some"],
        ["--verify", "colour"],
        ["--alpha", "0"],
        ["--timeout", "0"],
        ["--most-calls", "0"],
        ["--seed", "-1"],
        ["--judge", str(tmp_path / "absent")],
        ["--text-judge", "nobody/nothing"],
        ["--prompts", str(tmp_path / "absent.txt")],
    ):
        given = ["audit", "shapes", "--output", str(tmp_path / "out"), *options]
        if "--prompts" not in options:
            given += ["--prompts", str(prompts)]
        assert _left_with(given) == 2, options
        said = capsys.readouterr().err
        assert said.startswith("equipoise: ")
        assert said.count("\n") == 1, said
        assert not (tmp_path / "out").exists()
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no prompt"):
        audit_model("shapes", tmp_path / "empty.txt", AuditRequest(output=tmp_path / "out"))
    (tmp_path / "odd.csv").write_text("text\nred circle\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column prompt"):
        audit_model("shapes", tmp_path / "odd.csv", AuditRequest(output=tmp_path / "out"))


def test_pictures_that_the_rules_cannot_read_are_one_sentence(service, prompts, tmp_path):
    def odd(prompts, seeds):
        return torch.rand(len(prompts), 3, 20, 20)

    with pytest.raises(InputError, match="multiple of 16"):
        audit_model(odd, prompts, AuditRequest(output=tmp_path / "out"))


@pytest.mark.parametrize("slowly", ["headers", "body", "short"])
def test_a_service_that_never_ends_is_left(slowly):
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
            while slowly != "short" and not stop.wait(0.1):
                connection.sendall(b"x")

    def serve_headers():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            stop.wait(5)

    thread = threading.Thread(target=serve_headers if slowly == "headers" else serve, daemon=True)
    thread.start()
    started = time.monotonic()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    # Where the request comes in two pieces, the one that is not read makes the service's end a reset.
    words = "IncompleteRead|ConnectionResetError" if slowly == "short" else "TimeoutError|timed out"
    try:
        with pytest.raises(GeneratorError, match=words):
            ServedTextToImage(address, timeout=0.5, retries=0)(["red circle"], [0])
        assert time.monotonic() - started < 4
    finally:
        stop.set()
        thread.join()
        listening.close()


@pytest.mark.parametrize("address", ["http://a..b/", "http://host/caf\u00e9", "http://host/a b", "http://" + "a" * 70])
def test_addresses_that_cannot_be_asked(address):
    with pytest.raises(InputError, match="the address"):
        ServedTextToImage(address)


def test_a_picture_that_went_away_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "pictures.csv").write_text("prompt,seed,file\nred circle,0,a.png\n", encoding="utf-8")
    folder = PictureFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(GeneratorError, match="cannot be read"):
        folder(["red circle"], [0])


def test_a_picture_of_a_strange_form_is_no_picture():
    # Of this form Pillow says that it is not implemented.
    header = bytearray(b"DDS " + bytes(124))
    header[4:8], header[12:20], header[76:80] = (124).to_bytes(4, "little"), b"\x10\0\0\0" * 2, b"\x20\0\0\0"
    with pytest.raises(GeneratorError, match="cannot be read"):
        read_picture(bytes(header))
