package kustomization

import (
	"os"
	"testing"

	"sealock.dev/sealock/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=vault")) }
