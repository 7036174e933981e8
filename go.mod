module github.com/clarion-lb/clarion

go 1.26
