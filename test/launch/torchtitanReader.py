"""Reads exported torchtitan modules without running them: one JSON string a line in, one JSON object a line out."""

import ast
import json
import sys


def literal(node):
    """The value of a literal; the source text of any other expression."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def read(source):
    calls, constants, assigned = {}, {}, {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            arguments = {each.arg: literal(each.value) for each in node.keywords}
            calls.setdefault(ast.unparse(node.func), []).append(arguments)
        if isinstance(node, ast.Assign):
            target = ast.unparse(node.targets[0])
            (constants if target.isupper() else assigned)[target] = literal(node.value)
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {"calls": calls, "constants": constants, "assigned": assigned, "functions": functions}


for line in sys.stdin:
    print(json.dumps(read(json.loads(line))))
