#!/usr/bin/env python3
"""Looks at the contract and at captured messages with tools that are not ours: the AsyncAPI meta-schema, a JSON Schema
validator, the CloudEvents SDK.

    check.py CONTRACT [CAPTURED...]     deploy/contract, and directories of captured messages

A captured message is {"topic", "retained", "content_type", "user_properties", "payload"}. Packages: deploy/dev/python.txt.
"""
import json
import pathlib
import re
import sys

import yaml
from cloudevents.http import from_json
from jsonschema import Draft7Validator, Draft202012Validator

HERE = pathlib.Path(__file__).parent


class Document:
    """asyncapi.yaml, its references resolved."""

    def __init__(self, contract):
        self.contract, self.files = contract, {}
        self.raw = yaml.safe_load((contract / "asyncapi.yaml").read_text(encoding="utf-8"))
        meta = json.loads((HERE / "asyncapi-3.0.0.schema.json").read_text(encoding="utf-8"))
        problems = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in Draft7Validator(meta).iter_errors(self.raw)]
        assert not problems, "asyncapi.yaml is no AsyncAPI 3.0.0:\n" + "\n".join(problems)

    def get(self, value):
        """A value, or what it refers to."""
        while isinstance(value, dict) and isinstance(value.get("$ref"), str):
            name, _, path = value["$ref"].partition("#")
            if name and name not in self.files:
                self.files[name] = json.loads((self.contract / name).read_text(encoding="utf-8"))
            value = self.files[name] if name else self.raw
            for part in filter(None, path.split("/")):
                value = value[part]
        return value

    def channels(self):
        """Name, pattern of its topics, messages by name, whether they are retained."""
        of_channel = {self.name_of(o["channel"]): o for o in self.raw["operations"].values()}
        assert set(of_channel) == set(self.raw["channels"]), "every channel has one operation"
        for name, channel in self.raw["channels"].items():
            parameters = re.findall(r"\{(\w+)\}", channel["address"])
            assert set(parameters) == set(channel["parameters"]), f"{name}: parameters"
            pattern = re.compile(re.sub(r"\{\w+\}", "[a-zA-Z0-9_-]{1,64}", channel["address"]))
            messages = {key: self.get(message) for key, message in channel["messages"].items()}
            yield name, pattern, messages, of_channel[name]["bindings"]["mqtt"].get("retain")

    @staticmethod
    def name_of(reference):
        return reference["$ref"].removeprefix("#/channels/")


def check_examples(document):
    """The document's own examples are valid, and it leaves no schema out."""
    for name, message in document.raw["components"]["messages"].items():
        schema = document.get(message["payload"])
        Draft202012Validator.check_schema(schema)
        for example in message.get("examples", []):
            validate(schema, document.get(example["payload"]), f"{name}, example {example['name']}")
    for schema in document.raw["components"].get("schemas", {}).values():
        Draft202012Validator.check_schema(document.get(schema))
    used = {name.removeprefix("./") for name in document.files}
    there = {path.name for path in document.contract.glob("*.schema.json")}
    assert there <= used, f"asyncapi.yaml says nothing of {there - used}"


def validate(schema, content, what):
    problems = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in Draft202012Validator(schema).iter_errors(content)]
    assert not problems, f"{what}:\n" + "\n".join(problems)


def check_message(document, path):
    captured = json.loads(path.read_text(encoding="utf-8"))
    matching = [found for found in document.channels() if found[1].fullmatch(captured["topic"])]
    assert len(matching) == 1, f"{path.name}: {len(matching)} channels for {captured['topic']}"
    _, _, messages, retain = matching[0]
    kind = captured["payload"].get("type", "")
    if "alert" in messages:
        kinds = {"org.vedette.notice.": "notice", "org.vedette.update.": "updateStep"}
        message = messages[next((name for prefix, name in kinds.items() if kind.startswith(prefix)), "alert")]
    else:
        (message,) = messages.values()
    validate(document.get(message["payload"]), captured["payload"], path.name)
    assert captured["retained"] == bool(retain), f"{path.name}: retained"
    assert captured["content_type"] == message.get("contentType", document.raw["defaultContentType"]), path.name
    if "headers" in message:
        validate(message["headers"], captured["user_properties"], f"{path.name}, user properties")
    if "cloudevents" in captured["content_type"]:
        check_cloudevent(captured["payload"], path.name)


def check_cloudevent(payload, what):
    event = from_json(json.dumps(payload))
    for attribute in ("id", "source", "type", "specversion", "time", "subject", "sequence"):
        assert event[attribute] == payload[attribute], f"{what}: {attribute}"
    assert event.data == payload["data"], f"{what}: data"
    for name, value in event.get_attributes().items():
        # CloudEvents: names of lower case letters and digits, values that are no objects.
        assert re.fullmatch("[a-z0-9]{1,20}", name) and not isinstance(value, (dict, list)), f"{what}: {name}"


def main():
    contract, *captured = map(pathlib.Path, sys.argv[1:])
    document = Document(contract)
    check_examples(document)
    count = 0
    for directory in captured:
        paths = sorted(directory.glob("*.json"))
        assert paths, f"{directory} is empty"
        for path in paths:
            check_message(document, path)
            count += 1
    print(f"{len(document.raw['channels'])} channels, {count} captured messages: all is well")


if __name__ == "__main__":
    main()
