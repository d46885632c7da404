// Runs a health script of Argo CD's, given as the first argument, on the Kubernetes object that it reads as JSON; prints status and message.
//
// As Argo CD does it: gopher-lua, the object in the global `obj`, a table with status and message as the result.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	lua "github.com/yuin/gopher-lua"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: argohealth SCRIPT < object.json")
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(err)
	}
	var object any
	if err := json.NewDecoder(os.Stdin).Decode(&object); err != nil {
		fail(err)
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, open := range []lua.LGFunction{lua.OpenBase, lua.OpenTable, lua.OpenString} {
		open(state)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(string(script)); err != nil {
		fail(err)
	}
	found, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		fail("the script returns no table")
	}
	fmt.Printf("%s: %s\n", found.RawGetString("status"), found.RawGetString("message"))
}

func value(state *lua.LState, object any) lua.LValue {
	switch found := object.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, item := range found {
			table.RawSetString(key, value(state, item))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, item := range found {
			table.Append(value(state, item))
		}
		return table
	case string:
		return lua.LString(found)
	case float64:
		return lua.LNumber(found)
	case bool:
		return lua.LBool(found)
	}
	return lua.LNil
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, "error:", reason)
	os.Exit(1)
}
